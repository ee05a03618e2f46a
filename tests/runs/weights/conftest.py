"""A file of weights."""

import pytest

from slim.runs import weights
from tests.helpers import make_config
from tests.runs.weights.cases import make_params


@pytest.fixture
def path(tmp_path):
  """A file of weights, after 7 steps."""
  result = str(tmp_path / "model.safetensors")
  settings = make_config(model__width=64, optimizer__clip_norm=0.5)
  weights.save_weights(result, make_params(), settings, 7)
  return result
