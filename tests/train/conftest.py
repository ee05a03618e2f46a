"""Runs that differ only in their loop trace each program once."""

import functools
import json

import pytest

from slim import config as config_lib
from slim.training import build, evaluation, steps

# Of these settings an experiment knows nothing.
_OF_THE_LOOP = {
  "profile.steps",
  "train.checkpoint_every",
  "train.eval_every",
  "train.keep_best",
  "train.keep_checkpoints",
  "train.log_every",
  "train.max_skipped",
  "train.patience",
  "train.tensorboard",
}
_ORIGINAL = build.create_experiment
_EXPERIMENTS = {}


def _create_experiment(config, mesh=None):
  """Creates the experiment of a config, or returns the one of an equal one."""
  if mesh is not None:
    return _ORIGINAL(config, mesh)
  settings = {
    name: value
    for name, value in config_lib.flatten(config).items()
    if name not in _OF_THE_LOOP
  }
  key = json.dumps(settings)
  if key not in _EXPERIMENTS:
    _EXPERIMENTS[key] = _ORIGINAL(config)
  return _EXPERIMENTS[key]


# JAX knows a function that it has traced by its identity.
_ONCE = (
  (build, "create_experiment", _create_experiment),
  (
    evaluation,
    "make_evaluation_step",
    functools.cache(evaluation.make_evaluation_step),
  ),
  (steps, "make_update_step", functools.cache(steps.make_update_step)),
)


@pytest.fixture(scope="module", autouse=True)
def share_programs():
  """Gives equal experiments the same functions to compile."""
  with pytest.MonkeyPatch.context() as patch:
    for owner, name, make in _ONCE:
      patch.setattr(owner, name, make)
    yield
