"""Gradients of small models on meshes, compiled once for each case."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from slim.scale import (
  BatchLayout,
  choose_shardings,
  create_mesh,
  shard_gradient_step,
)
from slim.training.gradients import make_value_and_grad
from slim.training.steps import make_gradient_step
from slim.types import Batch
from tests.models.small import SIZES, create, params_of

KEY = jax.random.key(9)
STEP = np.int32(3)


def draw_batch(num_rows, length):
  """Draws a batch; the weights of rows and of pieces of them differ, some 0."""
  random = np.random.default_rng(2)
  tokens = random.integers(0, SIZES["vocab_size"], (num_rows, length + 1))
  tokens = tokens.astype(np.int32)
  weights = random.random((num_rows, length), np.float32)
  weights[:, : length // 2] *= random.integers(0, 2, (num_rows, 1))
  return Batch(tokens[:, :-1], tokens[:, 1:], weights)


def gradient_step_of(model, *, accumulation_steps=1, **how):
  """The gradient of the rows of one device."""
  return make_gradient_step(
    make_value_and_grad(model, **how),
    accumulation_steps=accumulation_steps,
    key=KEY if model.is_random else None,
  )


@functools.cache
def on_one_device(num_rows, length, **settings):
  """The sums and the gradient to find."""
  model = create(**settings)
  run = jax.jit(gradient_step_of(model, method="full"))
  return run(params_of(model), draw_batch(num_rows, length), STEP)


class Sharded:
  """A gradient on a mesh.

  Attributes:
    compiled: The program.
    params: The parameters, on the mesh.
    layout: Of its batches.
  """

  def __init__(
    self,
    mesh,
    num_rows,
    length,
    chunk_size,
    method="slim",
    policy="rewind",
    accumulation_steps=1,
    compiler_options=(),
    **settings,
  ):
    """Compiles it."""
    mesh = create_mesh(mesh, jax.devices())
    axis = "sequence" if "sequence" in mesh.shape else None
    model = create(sequence_axis=axis, **settings)
    params = params_of(model)
    chunk_size = chunk_size if method == "slim" else None
    step = gradient_step_of(
      model,
      method=method,
      policy=policy,
      chunk_size=chunk_size,
      accumulation_steps=accumulation_steps,
    )
    shapes = choose_shardings(params, mesh)
    self.layout = BatchLayout(mesh, length, chunk_size, model.token_order)
    self.compiled = (
      jax.jit(shard_gradient_step(step, mesh, params))
      .lower(
        shapes,
        self.layout.abstract(num_rows),
        jax.ShapeDtypeStruct((), jnp.int32),
      )
      .compile(dict(compiler_options))
    )
    self.params = jax.device_put(
      params, jax.tree.map(lambda x: x.sharding, shapes)
    )

  def __call__(self, batch):
    """Returns the sums and the gradient of a batch of NumPy."""
    count = len(batch.inputs)
    return self.compiled(
      self.params, self.layout.put(batch, count, slice(0, count)), STEP
    )
