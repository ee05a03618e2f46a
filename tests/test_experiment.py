"""From settings to objects."""

import jax
import numpy as np
import pytest

from slim import experiment
from tests.helpers import init_params, make_config

# Models of two seeds have equal programs, and nothing asks about rounding.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def test_full_then_slim_changes_in_the_middle():
  """Without it the paper's fine-tuning would be another regime."""
  settings = make_config(gradient__method="full_then_slim", train__num_steps=7)
  methods = [experiment.method_at(settings, step) for step in range(7)]
  assert methods == ["full"] * 3 + ["slim"] * 4
  parts = experiment.create_experiment(settings)
  assert list(parts.gradient_steps) == ["full", "slim"]


@pytest.mark.parametrize("method", ["full", "remat", "slim"])
def test_other_methods_do_not_change(method):
  """Without it half a run would be done by another method."""
  settings = make_config(gradient__method=method, train__num_steps=7)
  assert {experiment.method_at(settings, step) for step in range(7)} == {method}


def test_evaluation_needs_no_more_memory_than_training():
  """Without it a run that fits would fail at its first evaluation."""
  assert experiment.evaluation_chunk(make_config(gradient__chunk_size=64)) == 64
  assert (
    experiment.evaluation_chunk(make_config(gradient__chunk_size=9999)) == 512
  )
  assert (
    experiment.evaluation_chunk(make_config(gradient__method="full")) == 512
  )


def test_the_seed_decides_the_weights():
  """Without it a run could not be repeated, or its seed would mean nothing."""

  def weights(seed):
    settings = make_config(
      seed=seed, model__width=8, model__num_heads=2, model__num_layers=1
    )
    state = experiment.init(experiment.create_experiment(settings))
    return np.concatenate([x.ravel() for x in jax.tree.leaves(state.params)])

  np.testing.assert_array_equal(weights(1), weights(1))
  assert (weights(1) != weights(2)).any()


def test_the_seed_decides_the_random_features():
  """Without it a checkpoint could not be evaluated: they are not in it."""
  tokens = np.arange(8, dtype=np.int32)[None]

  def logits(seed):
    settings = make_config(
      seed=seed,
      model__width=8,
      model__num_heads=2,
      model__num_layers=1,
      model__feature_map="favor",
      gradient__policy="sqrt",
    )
    model = experiment.create_experiment(settings).model
    params = init_params(model)
    apply = jax.jit(model.apply)
    return np.asarray(apply(params, tokens, model.init_state(1))[0])

  np.testing.assert_array_equal(logits(1), logits(1))
  assert (logits(1) != logits(2)).any()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(model__norm="none"), "config.model.norm must be one of"),
    (dict(gradient__method="x"), "config.gradient.method must be one of"),
  ],
)
def test_errors_name_the_setting(settings, message):
  """Without it an error would name an argument that the user never gave."""
  with pytest.raises(ValueError, match=f"^{message}"):
    experiment.create_experiment(make_config(**settings))


def test_errors_of_the_data_name_the_setting():
  """Without it an error would name an argument that the user never gave."""
  with pytest.raises(ValueError, match="^config.data.sequence_length must be"):
    experiment.create_split(make_config(data__sequence_length=7), "train", 1)
