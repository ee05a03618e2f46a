"""Experiments are built as the settings say."""

import math

import jax
import numpy as np
import pytest

from slim import config as config_lib
from slim import models
from slim.training import build
from tests.helpers import SMALL, make_config


def test_full_then_slim_changes_in_the_middle():
  """Fails if the paper's fine-tuning uses another regime."""
  settings = make_config(gradient__method="full_then_slim", train__num_steps=7)
  methods = [build.method_at(settings, step) for step in range(7)]
  assert methods == ["full"] * 3 + ["slim"] * 4
  experiment = build.create_experiment(settings)
  assert list(experiment.gradient_steps) == ["full", "slim"]


@pytest.mark.parametrize("method", ["full", "remat", "slim"])
def test_other_methods_do_not_change(method):
  """Fails if half of a run uses another method."""
  settings = make_config(gradient__method=method, train__num_steps=7)
  assert {build.method_at(settings, step) for step in range(7)} == {method}


def test_evaluation_needs_no_more_memory_than_training():
  """Fails if a run that fits runs out of memory in its evaluation."""
  assert build.evaluation_chunk(make_config(gradient__chunk_size=64)) == 64
  assert build.evaluation_chunk(make_config(gradient__chunk_size=9999)) == 512
  assert build.evaluation_chunk(make_config(gradient__method="full")) == 512


def test_the_seed_decides_the_weights():
  """Fails if a run cannot be repeated, or its seed has no effect."""

  def weights(seed):
    experiment = build.create_experiment(make_config(seed=seed, **SMALL))
    # Sampling real parameters would compile a program per seed.
    model = experiment.model._replace(init=jax.random.key_data)
    return build.init(experiment._replace(model=model)).params

  np.testing.assert_array_equal(weights(1), weights(1))
  assert (weights(1) != weights(2)).any()


def test_the_seed_decides_the_random_features(monkeypatch):
  """Fails if a checkpoint, which lacks them, cannot be evaluated."""
  found = []
  monkeypatch.setattr(
    models, "create_model", lambda **settings: found.append(settings)
  )
  for seed in (1, 1, 2):
    build.create_model(make_config(seed=seed, **SMALL))
  a, b, c = (jax.random.key_data(x["frozen_key"]) for x in found)
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(model__norm="none"), "config.model.norm must be one of"),
    (dict(gradient__method="x"), "config.gradient.method must be one of"),
  ],
)
def test_errors_name_the_setting(settings, message):
  """Fails if an error names an argument that the user never gave."""
  with pytest.raises(ValueError, match=f"^{message}"):
    build.create_experiment(make_config(**settings))


def test_errors_of_the_data_name_the_setting():
  """Fails if an error names an argument that the user never gave."""
  with pytest.raises(ValueError, match="^config.data.sequence_length must be"):
    build.create_split(make_config(data__sequence_length=7), "train", 1)


def test_a_limit_of_the_norm_is_that_of_the_config():
  """Fails if updates are skipped that should not be, or none are."""
  for settings, limit in (
    ({}, None),
    ({"train__max_skipped": 2}, math.inf),
    ({"train__max_skipped": 2, "train__skip_norm": 5.0}, 5.0),
  ):
    assert build.skip_above(make_config(**settings)) == limit
  with pytest.raises(
    ValueError, match="config.train.max_skipped must be above"
  ):
    config_lib.validate(make_config(train__skip_norm=5.0))
