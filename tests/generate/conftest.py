"""What all tests of generation share."""

import pytest

from slim.generate import decoding, scoring


@pytest.fixture(scope="package", autouse=True)
def forget_programs():
  """Frees the programs of many small models, which JAX keeps."""
  yield
  for program in (decoding._read, decoding._draw, scoring._score):
    program.clear_cache()
