"""The policies of `scan` and `sum_and_grad`, and the checks both share."""

from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan.step_types import RewindFn, StepFn
from slim.kernels.support.explicit_meshes import shard_alike
from slim.kernels.support.shapes import check_alike

POLICIES = ("store", "sqrt", "rewind")


def check_policy(policy: str, rewind: RewindFn | None) -> None:
  """Raises ValueError for an unknown policy, or "rewind" without a function."""
  if policy not in POLICIES:
    raise ValueError(f"policy must be one of {POLICIES}, got {policy!r}")
  if policy == "rewind" and rewind is None:
    raise ValueError(
      "policy 'rewind' needs `rewind`, a function that undoes the step; for a "
      "step that cannot be undone choose policy 'sqrt' or 'store'"
    )


def check_step(
  step: StepFn, params: Any, state: Any, chunk: Any
) -> tuple[Any, Any]:
  """Checks that a step keeps the type of its state.

  Args:
    step: `step(params, state, chunk) -> (state, out)`.
    params: Pytree of arrays.
    state: Pytree of arrays, the initial state.
    chunk: The first chunk of the sequence.

  Returns:
    state: The initial state with the types that `step` returns. A Python number
      takes a dtype, and a replicated array the sharding of a mesh.
    out: Pytree of `jax.ShapeDtypeStruct`, the `out` of the first chunk.

  Raises:
    ValueError: If the step changes the structure, a shape or a dtype.
  """
  after, out = jax.eval_shape(step, params, state, chunk)
  if any(jax.typeof(x).weak_type for x in jax.tree.leaves(state)):
    state = _strengthen(state, after)
    after, out = jax.eval_shape(step, params, state, chunk)
  check_alike("the state that step returns", after, state)
  return jax.tree.map(shard_alike, state, after), out


def _strengthen(state, after):
  """Casts weakly typed leaves to what `step` returns, as `jax.lax.scan` does.

  A Python number is weakly typed. The first chunk would see another type than
  the later ones.
  """

  def cast(x, found):
    if not jax.typeof(x).weak_type:
      return x
    with jax.numpy_dtype_promotion("standard"):
      fits = jnp.result_type(x, found.dtype) == found.dtype
    return x.astype(found.dtype) if fits else x

  if jax.tree.structure(state) != jax.tree.structure(after):
    return state  # check_alike refuses it.
  return jax.tree.map(cast, state, after)
