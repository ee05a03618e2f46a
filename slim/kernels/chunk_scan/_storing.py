"""The policies "store" and "sqrt" of `slim.kernels.scan`: keep states.

Both are loops of `jax.checkpoint(step)`, differentiated by JAX alone, so they
take any step and have derivatives of any order. "sqrt" walks in groups of about
√N chunks. It keeps the states that the groups start from; those of the chunks
in a group it computes once more when it comes back to the group.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._opaque import opaque_one
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.support.cotangents import inexact_leaves, is_inexact
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import zeros_like


def storing_scan(
  step: Any, params: Any, state: Any, xs: Any, chunks: Chunks, out: Any
) -> tuple[Any, Any]:
  """Runs `scan` under the policy "store"; see there.

  Args:
    step: `step(params, state, chunk) -> (state, out)`.
    params: Pytree of arrays.
    state: Pytree of arrays.
    xs: Pytree of arrays with time along `chunks.axis`.
    chunks: The cut of the sequence, into at least two chunks.
    out: Pytree of `jax.ShapeDtypeStruct`, what `step` returns as `out` for the
      first chunk.

  Returns:
    The state after the last token, and the outputs along time.
  """
  return _scan(step, params, state, xs, chunks, out, _walk)


def grouping_scan(
  step: Any, params: Any, state: Any, xs: Any, chunks: Chunks, out: Any
) -> tuple[Any, Any]:
  """Runs `scan` under the policy "sqrt"; see there.

  Args, Returns: as `storing_scan`.
  """
  return _scan(step, params, state, xs, chunks, out, _walk_in_groups)


def _scan(step, params, state, xs, chunks, out, walk):
  """Takes a short first chunk by itself, and `walk`s over the others."""
  step, params = _summing_in_float32(step, params)
  chunks, first_out = chunks.merge_equal(), None
  if chunks.first_size:
    state, first_out = _apart(step, params, state, chunks.first(xs), out)
  state, later_outs = walk(
    lambda state, chunk: step(params, state, chunk),
    state,
    chunks.stack_later(xs),
  )
  return state, chunks.unstack(first_out, later_outs)


def _apart(step, params, state, chunk, out):
  """Runs a step, and recomputes it when it is differentiated.

  On x86 CPUs with jax <= 0.11.0, `jax.checkpoint` alone has no effect outside
  of loops: XLA merges the recomputation with the original and keeps the
  activations. It does not merge two branches. Which branch is taken must be
  unknown when compiling.
  """
  args = params, state, chunk

  def skip(params, state, chunk):
    like = jax.tree.leaves((params, state, chunk))[0]
    return state, jax.tree.map(lambda x: zeros_like(x, like=like), out)

  return jax.lax.cond(
    opaque_one(inexact_leaves(args)) == 1,
    jax.checkpoint(step, prevent_cse=False),
    skip,
    *args,
  )


def _summing_in_float32(step, params):
  """Widens short floats in `params`, and makes the step narrow them again.

  Their gradients, one a chunk, are then summed in float32 and rounded once.
  """
  dtypes = jax.tree.map(lambda x: x.dtype, params)

  def cast(x, dtype):
    # Only if needed: a cast makes a weakly typed array, such as a Python
    # number, a strongly typed one, and PRNG keys have none.
    return x if x.dtype == dtype else x.astype(dtype)

  def wide(x):
    return cast(x, at_least_float32(x.dtype)) if is_inexact(x) else x

  def narrowing_step(params, state, chunk):
    return step(jax.tree.map(cast, params, dtypes), state, chunk)

  return narrowing_step, jax.tree.map(wide, params)


def _walk(step, state, chunks):
  """Keeps the state at the start of each of the stacked chunks."""
  # A loop hides its body from common subexpression elimination by itself.
  return jax.lax.scan(jax.checkpoint(step, prevent_cse=False), state, chunks)


def _walk_in_groups(step, state, chunks):
  """Keeps the state at the start of each group, and walks in it when needed."""

  def walk(state, chunks):
    return _walk(step, state, chunks)

  num_chunks = jax.tree.leaves(chunks)[0].shape[0]
  size = _group_size(num_chunks)
  # As of the chunks, the short group is the first.
  num_short = num_chunks % size
  outs = []
  if num_short:
    group = jax.tree.map(lambda x: x[:num_short], chunks)
    state, out = jax.checkpoint(walk)(state, group)
    outs.append(out)
  shape = num_chunks // size, size
  groups = jax.tree.map(
    lambda x: x[num_short:].reshape(*shape, *x.shape[1:]), chunks
  )
  state, out = _walk(walk, state, groups)
  outs.append(
    jax.tree.map(lambda x: x.reshape(math.prod(shape), *x.shape[2:]), out)
  )
  return state, jax.tree.map(lambda *x: jnp.concatenate(x), *outs)


def _group_size(num_chunks):
  """Chunks in a group, about √N, so that few states are kept at a time.

  Those are one a group, and one a chunk of the group that is differentiated. A
  short group is a loop more to compile, which sums a gradient of its own; a
  size that leaves none may cost half more states, and twice as many where the
  short group would be one chunk: XLA unrolls that loop, and x86 CPUs with
  jax <= 0.11.0 then keep its activations.
  """

  def cost(size):
    num_groups, rest = divmod(num_chunks, size)
    return (size + num_groups) * {0: 1, 1: 2}.get(rest, 1.5)

  return min(range(1, 2 * math.isqrt(num_chunks) + 1), key=cost)
