"""A new mixer is one file and one line of the registry; all else just works."""

import jax
import numpy as np
import pytest

from slim.certify.from_config import certify_config
from slim.evaluate import evaluate_workdir
from slim.models import create_model
from slim.models.mixers import MIXERS
from slim.train import train_and_evaluate
from tests.helpers import make_config
from tests.models import small
from tests.models.toy_mixer import AVERAGE

# A run evaluates, and then its checkpoint is evaluated: one program.
pytestmark = pytest.mark.usefixtures("compilation_cache")

TINY = {
  "model__width": 16,
  "model__num_heads": 2,
  "data__sequence_length": 24,
  "gradient__chunk_size": 8,
  "train__batch_size": 2,
  "train__num_steps": 2,
  "train__eval_batches": 1,
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  """Adds the one line."""
  monkeypatch.setitem(MIXERS, "average", AVERAGE)


@pytest.mark.parametrize(
  "method", ["slim", pytest.param("full", marks=pytest.mark.slow)]
)
def test_it_trains_and_evaluates(tmp_path, method):
  """Fails if a command asks for the name of a mixer."""
  config = make_config(
    **TINY,
    model__attention="average,linear",
    model__average_decay=0.25,
    gradient__method=method,
    gradient__policy="store",
  )
  train_and_evaluate(config, str(tmp_path))
  record = evaluate_workdir(str(tmp_path), "validation", carry_state=False)
  assert np.isfinite(record["eval/loss"])


@pytest.mark.slow
def test_it_is_certified():
  """Fails if certify does not take a new mixer, or it is not exact."""
  config = make_config(
    **TINY,
    model__attention="average",
    model__num_layers=1,
    gradient__policy="store",
  )
  certificate = certify_config(config)
  assert certificate.ok, certificate.describe_failure()


def test_it_generates_its_state(x64):
  """Fails if tokens one by one end in another state than all at once."""
  sizes = {k: small.SIZES[k] for k in ("vocab_size", "width", "num_heads")}
  model = create_model(
    attention="average", num_layers=1, dtype="float64", **sizes
  )
  assert (model.state_kind, model.kept.layers) == ("fixed", (True,))
  params = small.params_of(model)
  tokens, apply = small.tokens_of(2, 4), jax.jit(model.apply)
  _, right = apply(params, tokens, model.init_state(2))
  state = model.init_state(2)
  for t in range(4):
    _, state = apply(params, tokens[:, t : t + 1], state)
  np.testing.assert_allclose(state.layers[0], right.layers[0], rtol=1e-12)
