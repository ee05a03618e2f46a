"""The shapes of an experiment, to compile it without data or memory."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from slim import scale
from slim.data import is_packed
from slim.targets.matrix_products import count_matmul_flops
from slim.training import build
from slim.types import Batch, LanguageModel, TrainState


def abstract_state(experiment: build.Experiment) -> TrainState:
  """Returns the shapes of the state of an experiment, and its shardings.

  Args:
    experiment: The experiment.

  Returns:
    TrainState of `jax.ShapeDtypeStruct`s, with shardings if there is a mesh.
  """
  state = jax.eval_shape(lambda: build.init(experiment))
  if experiment.mesh is None:
    return state
  return scale.choose_shardings(state, experiment.mesh)


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
  positions = tokens if is_packed(config.data) else None
  return Batch._make((tokens, tokens, weights, positions))


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


def tree_bytes(tree: Any) -> int:
  """Returns the bytes that a device has of a pytree of arrays or shapes."""
  return sum(
    math.prod(shape_of_device(x)) * getattr(x.dtype, "itemsize", 8)
    for x in jax.tree.leaves(tree)
  )


def shape_of_device(x: Any) -> tuple[int, ...]:
  """Returns the shape of the part of an array that one device has."""
  sharding = getattr(x, "sharding", None)
  if isinstance(sharding, jax.sharding.NamedSharding):
    return sharding.shard_shape(x.shape)
  return x.shape
