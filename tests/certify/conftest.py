"""A certificate of fewer programs, for tests of one part of it."""

import pytest


@pytest.fixture
def one_size(monkeypatch):
  """Certifies with one chunk size and without compiling for the memory."""
  monkeypatch.setattr(
    "slim.certify.certify_step.chunk_sizes", lambda length: (11, 11, 11)
  )
  monkeypatch.setattr(
    "slim.certify.certify_step.check_memory", lambda *_: iter(())
  )
