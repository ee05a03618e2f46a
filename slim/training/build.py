"""From settings to the objects they describe; a ConfigDict ends here.

Everything below takes ordinary arguments. Training, evaluation and the tools
all build their experiment here, so they agree about it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from slim import data, models
from slim.kernels.support.random_bits import split
from slim.settings import prefix_setting_errors
from slim.targets.matrix_products import count_matmul_flops
from slim.training import steps
from slim.training.gradients import make_value_and_grad
from slim.training.optimizers import (
  OptimizerSettings,
  create_optimizer,
  make_schedule,
)
from slim.training.steps import GradientStep
from slim.types import Batch, LanguageModel, TrainState


class Experiment(NamedTuple):
  """A model and what trains it."""

  model: LanguageModel
  optimizer: optax.GradientTransformation
  gradient_steps: dict[str, GradientStep]  # By method, see `method_at`.
  init_key: jax.Array  # PRNG key of the parameters.


def create_experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Builds an experiment; only random features are computed.

  Args:
    config: All settings.

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
  return Experiment(
    model, optimizer, make_gradient_steps(config, model), init_key
  )


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


def create_model(config: ml_collections.ConfigDict) -> LanguageModel:
  """Builds the model of an experiment.

  Args:
    config: All settings.

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
      **config.model,
    )


def make_gradient_steps(
  config: ml_collections.ConfigDict, model: LanguageModel
) -> dict[str, GradientStep]:
  """Makes the gradients that a run uses.

  Args:
    config: All settings.
    model: The model of these settings.

  Returns:
    The gradient of a batch by each method, in the order of their use.

  Raises:
    SettingError: If the settings of the gradient do not fit the model.
  """
  _, training_key, _ = _keys(config)
  gradient_steps = {}
  for method in _methods(config):
    with prefix_setting_errors("config.gradient."):
      value_and_grad = make_value_and_grad(
        model,
        method=method,
        chunk_size=config.gradient.chunk_size,
        policy=config.gradient.policy,
      )
    gradient_steps[method] = steps.make_gradient_step(
      value_and_grad,
      accumulation_steps=config.train.accumulation_steps,
      key=training_key if model.is_random else None,
    )
  return gradient_steps


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


def abstract_batch(
  config: ml_collections.ConfigDict,
  batch_size: int | None = None,
  length: int | None = None,
) -> Batch:
  """Returns the shapes of a batch, to compile without data.

  Args:
    config: All settings.
    batch_size: B, sequences; None: `config.train.batch_size`.
    length: T, tokens; None: `config.data.sequence_length`.

  Returns:
    Batch of `jax.ShapeDtypeStruct`s.
  """
  shape = (
    batch_size or config.train.batch_size,
    length or config.data.sequence_length,
  )
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  weights = jax.ShapeDtypeStruct(shape, jnp.float32)
  return Batch._make((tokens, tokens, weights))


def count_flops(config: ml_collections.ConfigDict, model: LanguageModel) -> int:
  """Counts the FLOPs of the model in one update, for any gradient method.

  Args:
    config: All settings.
    model: The model of these settings.

  Returns:
    FLOPs of the matrix products in one forward and one backward pass. A
    backward pass costs two forward passes; recomputation is not counted.
  """
  params = jax.eval_shape(model.init, jax.random.key(0))
  tokens = abstract_batch(config).inputs
  state = jax.eval_shape(lambda: model.init_state(tokens.shape[0]))
  return 3 * count_matmul_flops(model.apply, params, tokens, state)


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
  """Returns the chunk size of evaluation, which needs no more memory.

  Args:
    config: All settings.

  Returns:
    C if training computes every gradient in chunks, T otherwise.
  """
  if config.gradient.method == "slim":
    return min(config.gradient.chunk_size, config.data.sequence_length)
  return config.data.sequence_length


def _keys(config: ml_collections.ConfigDict) -> jax.Array:
  """Splits the seed: parameters, training, and frozen random arrays."""
  return split(jax.random.key(config.seed), 3)


def _methods(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the gradient methods in the order of their use."""
  return config.gradient.method.split("_then_")
