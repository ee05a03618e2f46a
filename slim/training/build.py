"""From settings to the objects they describe; a ConfigDict ends here.

Everything below takes ordinary arguments. Training, evaluation and the tools
all build their experiment here, so they agree about it.
"""

import math
from typing import NamedTuple

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from slim import data, models, scale
from slim.kernels.support.random_bits import split
from slim.settings import SettingError, prefix_setting_errors
from slim.training import steps
from slim.training.gradients import make_value_and_grad
from slim.training.optimizers import (
  OptimizerSettings,
  create_optimizer,
  make_schedule,
)
from slim.training.steps import GradientStep
from slim.types import LanguageModel, TrainState


class Experiment(NamedTuple):
  """A model and what trains it."""

  model: LanguageModel
  optimizer: optax.GradientTransformation
  gradient_steps: dict[str, GradientStep]  # By method, see `method_at`.
  init_key: jax.Array  # PRNG key of the parameters.
  mesh: Mesh | None = None  # None: one device.


def create_experiment(
  config: ml_collections.ConfigDict, mesh: Mesh | None = None
) -> Experiment:
  """Builds an experiment; only random features are computed.

  Args:
    config: All settings.
    mesh: The devices, from `slim.training.devices`; None: one device.

  Returns:
    The experiment.

  Raises:
    SettingError: If settings of the model or of the gradient do not fit.
  """
  model = create_model(config)
  with prefix_setting_errors("config.optimizer."):
    optimizer = create_optimizer(
      OptimizerSettings(**config.optimizer), config.train.num_steps
    )
  init_key, *_ = _keys(config)
  gradient_steps = make_gradient_steps(config, model, mesh)
  return Experiment(model, optimizer, gradient_steps, init_key, mesh)


def create_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
  """Creates the learning rate of each update, counted from 0.

  Args:
    config: All settings.

  Returns:
    A function of the update's number.

  Raises:
    SettingError: If its settings do not fit.
  """
  with prefix_setting_errors("config.optimizer."):
    return make_schedule(
      OptimizerSettings(**config.optimizer), config.train.num_steps
    )


def create_model(
  config: ml_collections.ConfigDict, sequence_axis: str | None = None
) -> LanguageModel:
  """Builds the model of an experiment.

  Args:
    config: All settings.
    sequence_axis: As for `slim.models.create_model`.

  Returns:
    The model.

  Raises:
    SettingError: If its settings do not fit.
  """
  *_, frozen_key = _keys(config)
  with prefix_setting_errors("config.model."):
    return models.create_model(
      vocab_size=config.data.vocab_size,
      frozen_key=frozen_key,
      max_positions=config.data.sequence_length,
      sequence_axis=sequence_axis,
      packed=data.is_packed(config.data),
      **config.model,
    )


def make_gradient_steps(
  config: ml_collections.ConfigDict,
  model: LanguageModel,
  mesh: Mesh | None = None,
) -> dict[str, GradientStep]:
  """Makes the gradients that a run uses.

  Args:
    config: All settings.
    model: The model of these settings.
    mesh: The devices; None: one device.

  Returns:
    The gradient of a batch by each method, in the order of their use. On a
    mesh, it takes batches as `slim.training.devices.batch_layout` says.

  Raises:
    SettingError: If the settings of the gradient do not fit the model.
  """
  if config.gradient.memory_budget is not None:
    raise SettingError(
      "config.gradient.memory_budget",
      "must be None here, as slim.train alone chooses a gradient by it: pass "
      f"what slim.plan advises, got {config.gradient.memory_budget!r}",
    )
  _, training_key, _ = _keys(config)
  of_device = model_of_device(config, model, mesh)
  gradient_steps: dict[str, GradientStep] = {}
  for method in _methods(config):
    with prefix_setting_errors("config.gradient."):
      value_and_grad = make_value_and_grad(
        of_device,
        method=method,
        chunk_size=config.gradient.chunk_size,
        policy=config.gradient.policy,
      )
    gradient_step = steps.make_gradient_step(
      value_and_grad,
      accumulation_steps=config.train.accumulation_steps,
      key=training_key if model.is_random else None,
    )
    gradient_steps[method] = gradient_step
    if mesh is not None:
      params = jax.eval_shape(model.init, jax.random.key(0))
      gradient_steps[method] = scale.shard_gradient_step(
        gradient_step, mesh, params
      )
  return gradient_steps


def model_of_device(
  config: ml_collections.ConfigDict, model: LanguageModel, mesh: Mesh | None
) -> LanguageModel:
  """Returns the model that each device of a mesh computes.

  Args:
    config: All settings.
    model: The model of these settings.
    mesh: The devices; None: one device.

  Returns:
    The same, or one for a sequence whose tokens devices share.
  """
  if mesh is None or "sequence" not in mesh.shape:
    return model
  return create_model(config, "sequence")


def init(experiment: Experiment) -> TrainState:
  """Returns the state before the first update; works in `jax.eval_shape`."""
  params = experiment.model.init(experiment.init_key)
  return steps.init_train_state(params, experiment.optimizer)


def create_split(
  config: ml_collections.ConfigDict, split: str, batch_size: int
) -> data.Dataset:
  """Creates a split of the data.

  Args:
    config: All settings.
    split: "train", "validation" or "test".
    batch_size: B, sequences.

  Returns:
    The dataset.

  Raises:
    SettingError: If settings of the data do not fit, or the file cannot be
      read.
  """
  with prefix_setting_errors("config.data."):
    return data.create_dataset(
      split=split, batch_size=batch_size, seed=config.seed, **config.data
    )


def rows_at_once(config: ml_collections.ConfigDict) -> int:
  """Returns how many sequences of a batch are computed at a time."""
  return config.train.batch_size // config.train.accumulation_steps


def skip_above(config: ml_collections.ConfigDict) -> float | None:
  """Returns the `skip_above` of `make_update_step`: None if none is skipped."""
  if not config.train.max_skipped:
    return None
  return config.train.skip_norm or math.inf


def method_at(config: ml_collections.ConfigDict, step: int) -> str:
  """Returns the gradient method of an update.

  Args:
    config: All settings.
    step: The update, counted from 0.

  Returns:
    "full", "remat" or "slim".
  """
  methods = _methods(config)
  return methods[0] if step < config.train.num_steps // 2 else methods[-1]


def evaluation_chunk(config: ml_collections.ConfigDict) -> int:
  """Returns C of evaluation: that of the method "slim", or else T."""
  if config.gradient.method == "slim":
    return min(config.gradient.chunk_size, config.data.sequence_length)
  return config.data.sequence_length


def _keys(config: ml_collections.ConfigDict) -> jax.Array:
  """Splits the seed: parameters, training, and frozen random arrays."""
  return split(jax.random.key(config.seed), 3)


def _methods(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the gradient methods in the order of their use."""
  return config.gradient.method.split("_then_")
