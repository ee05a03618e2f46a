"""From settings to what they describe: here a ConfigDict ends.

Everything below has ordinary arguments. Training, evaluation and tools all
create an experiment here, so they cannot disagree about it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

from slim import config as config_lib
from slim import (
  data,
  models,
)
from slim.kernels.support.random_bits import split
from slim.runs import (
  checkpoints as checkpoint,
)
from slim.runs import (
  weights,
)
from slim.training import steps
from slim.training.gradients import make_value_and_grad
from slim.training.optimizers import create_optimizer
from slim.types import Batch, LanguageModel


class Experiment(NamedTuple):
  """A model and what trains it."""

  model: LanguageModel
  optimizer: optax.GradientTransformation
  gradient_steps: dict[str, Callable]  # By method, see `method_at`.
  init_key: jax.Array  # PRNG key of the parameters.


def create_experiment(config: ml_collections.ConfigDict) -> Experiment:
  """Creates an experiment; nothing is computed yet but random features.

  Args:
    config: All settings.

  Returns:
    The experiment.

  Raises:
    ValueError: If the settings of the model or of the gradient do not fit.
  """
  init_key, training_key, _ = _keys(config)
  model = create_model(config)
  gradient_steps = {}
  for method in _methods(config):
    with config_lib.naming("gradient"):
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
  optimizer = create_optimizer(
    num_steps=config.train.num_steps, **config.optimizer
  )
  return Experiment(model, optimizer, gradient_steps, init_key)


def create_model(config: ml_collections.ConfigDict) -> LanguageModel:
  """Creates the model of an experiment alone.

  Args:
    config: All settings.

  Returns:
    The model.

  Raises:
    ValueError: If its settings do not fit.
  """
  *_, frozen_key = _keys(config)
  with config_lib.naming("model"):
    return models.create_model(
      vocab_size=config.data.vocab_size,
      frozen_key=frozen_key,
      max_positions=config.data.sequence_length,
      **config.model,
    )


def init(experiment: Experiment) -> steps.TrainState:
  """Returns the state before the first update; `jax.eval_shape` takes it."""
  params = experiment.model.init(experiment.init_key)
  return steps.init_train_state(params, experiment.optimizer)


def first_state(
  config: ml_collections.ConfigDict, experiment: Experiment
) -> steps.TrainState:
  """Computes the state that a new run starts from.

  Args:
    config: All settings.
    experiment: The experiment of these settings.

  Returns:
    The state before the first update, with new parameters or with those in the
    file `train.init_from`.

  Raises:
    ValueError: If the file cannot be read, or is of another model.
  """
  sample = jax.jit(lambda: init(experiment))
  if config.train.init_from is None:
    return sample()
  params = weights.load_initial_params(config, jax.eval_shape(sample).params)
  return steps.init_train_state(params, experiment.optimizer)


def check_initial_params(config: ml_collections.ConfigDict) -> None:
  """Raises if a run cannot start from the file `train.init_from`.

  Args:
    config: All settings; those of the gradient do not matter.

  Raises:
    ValueError: If there is such a file, and it cannot be read or is of another
      model.
  """
  if config.train.init_from is not None:
    abstract = jax.eval_shape(create_model(config).init, jax.random.key(0))
    weights.load_initial_params(config, abstract)


def restore_run(
  workdir: str, experiment: Experiment
) -> tuple[steps.TrainState, dict[str, Any]]:
  """Restores what a run has learned.

  Args:
    workdir: The folder of the run.
    experiment: The experiment of its settings.

  Returns:
    The state and the facts of its newest checkpoint.

  Raises:
    ValueError: If there is none, or it cannot be read.
  """
  abstract_state = jax.eval_shape(lambda: init(experiment))
  restored = checkpoint.restore_newest(workdir, abstract_state)
  if restored is None:
    raise ValueError(
      f"--workdir {workdir} has no checkpoint yet: train first, or longer"
    )
  return restored


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
    ValueError: If the settings of the data, or the file, do not fit.
  """
  with config_lib.naming("data"):
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
    batch_size: B, sequences; None: those of an update.
    length: T, tokens; None: those of a sequence.

  Returns:
    Batch of `jax.ShapeDtypeStruct`s.
  """
  shape = (
    batch_size or config.train.batch_size,
    length or config.data.sequence_length,
  )
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  return Batch(tokens, tokens, jax.ShapeDtypeStruct(shape, jnp.float32))


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
  """Returns how many tokens are evaluated at once.

  Args:
    config: All settings.

  Returns:
    C tokens where training has the memory for no more, T elsewhere.
  """
  if config.gradient.method == "slim":
    return min(config.gradient.chunk_size, config.data.sequence_length)
  return config.data.sequence_length


def _keys(config: ml_collections.ConfigDict) -> jax.Array:
  """Keys of the parameters, of what is random in training, and of constants."""
  return split(jax.random.key(config.seed), 3)


def _methods(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the gradient methods in the order of their use."""
  return config.gradient.method.split("_then_")
