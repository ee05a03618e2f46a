"""Gradients of a small Performer, compiled for all devices of a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from slim.models import create_model
from slim.scale import (
  BatchLayout,
  choose_shardings,
  create_mesh,
  shard_gradient_step,
)
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad
from slim.training.steps import make_gradient_step
from slim.types import Batch, LanguageModel

LAYERS = 3


def compile_gradient(
  name: str,
  method: str,
  length: int,
  width: int,
  chunk_size: int,
  batch_size: int = 1,
  **settings: Any,
) -> tuple[jax.stages.Compiled, Any, Mesh | None]:
  """Compiles a gradient for all devices of a mesh.

  Args:
    name: The mesh, as in "data=2,sequence=4".
    method: "full", or "slim, " and a policy.
    length: T.
    width: D.
    chunk_size: C, for "slim".
    batch_size: B.
    **settings: Further arguments of `create_model`.

  Returns:
    The program, the shapes of the parameters with shardings, and the mesh.
  """
  mesh = create_mesh(name, jax.devices())
  axis = None
  if mesh is not None and "sequence" in mesh.shape:
    axis = "sequence"
  model = make_narrow_model(width, sequence_axis=axis, **settings)
  params = jax.eval_shape(model.init, jax.random.key(0))
  how = {"method": "full"}
  if method != "full":
    how = {
      "method": "slim",
      "policy": method.removeprefix("slim, "),
      "chunk_size": chunk_size,
    }
  step = make_gradient_step(
    make_value_and_grad(model, **how), accumulation_steps=1, key=None
  )
  number = jax.ShapeDtypeStruct((), jnp.int32)
  if mesh is None:
    tokens = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
    weights = jax.ShapeDtypeStruct((batch_size, length), jnp.float32)
    batch = Batch(tokens, tokens, weights)
  else:
    step = shard_gradient_step(step, mesh, params)
    params = choose_shardings(params, mesh)
    layout = make_layout(model, mesh, length, method, chunk_size)
    batch = layout.abstract(batch_size)
  lowered = jax.jit(step).lower(params, batch, number)
  return lowered.compile(COMPILER_OPTIONS), params, mesh


def make_narrow_model(width: int, **settings: Any) -> LanguageModel:
  """Makes a model of three layers, with heads of 64 or fewer."""
  return create_model(
    vocab_size=256,
    width=width,
    num_layers=LAYERS,
    num_heads=max(4, width // 64),
    **settings,
  )


def make_layout(
  model: LanguageModel,
  mesh: Mesh,
  length: int,
  method: str,
  chunk_size: int,
) -> BatchLayout:
  """Says how a batch lies on the mesh."""
  size = None if method == "full" else chunk_size
  return BatchLayout(mesh, length, size, model.token_order)
