"""Policies "store" and "sqrt" of `slim.kernels.scan`: keep states.

Both are loops of `jax.checkpoint(step)` that JAX differentiates, so they take
any step and have derivatives of any order. "sqrt" scans over groups of about √N
chunks and keeps the state at the start of each group. It recomputes the states
within a group when the backward pass reaches it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._packing import pack, unpack
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.support.cotangents import inexact_leaves, is_inexact
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import vary
from slim.kernels.support.opaque import opaque_one


def storing_scan(
  step: Any, params: Any, state: Any, xs: Any, chunks: Chunks
) -> tuple[Any, Any]:
  """Runs `slim.kernels.scan` with policy "store".

  Args:
    step: `step(params, state, chunk) -> (state, out)`.
    params: Pytree of arrays.
    state: Pytree of arrays.
    xs: Pytree of arrays with time along `chunks.axis`.
    chunks: The cut of the sequence, into at least two chunks.

  Returns:
    The state after the last token, and the outputs along time.
  """
  return _scan(step, params, state, xs, chunks, _walk)


def grouping_scan(
  step: Any, params: Any, state: Any, xs: Any, chunks: Chunks
) -> tuple[Any, Any]:
  """Runs `slim.kernels.scan` with policy "sqrt".

  Args, Returns: As for `storing_scan`.
  """
  return _scan(step, params, state, xs, chunks, _walk_in_groups)


def _scan(step, params, state, xs, chunks, walk):
  """Runs a short first chunk outside the loop, and `walk` over the others."""
  step, params = _summing_in_float32(step, params)
  chunks, first_out = chunks.merge_equal(), None
  if chunks.first_size:
    state, first_out = _apart(step, params, state, chunks.first(xs))

  def packed_step(packed, chunk):
    after, out = step(params, unpack(packed, state), chunk)
    return pack(after), out

  packed, later_outs = walk(packed_step, pack(state), chunks.stack_later(xs))
  state = unpack(packed, state)
  return state, chunks.unstack(first_out, later_outs)


def _apart(step, params, state, chunk):
  """Runs a step outside of loops, and recomputes it in the backward pass.

  On x86 CPUs with jax <= 0.11.0, `jax.checkpoint` alone has no effect outside
  of loops: XLA merges the recomputation with the original and keeps the
  activations. It does not merge branches of a `cond`, if it cannot know which
  branch is taken.
  """
  args = params, state, chunk

  def skip(params, state, chunk):
    del params, chunk
    return state, _zeros_of_out(step, *args)

  return jax.lax.cond(
    opaque_one(inexact_leaves(args)) == 1,
    jax.checkpoint(step, prevent_cse=False),
    skip,
    *args,
  )


def _zeros_of_out(step, params, state, chunk):
  """Makes zeros like the `out` of a step, of the same types on a mesh."""
  traced, shapes = jax.make_jaxpr(step, return_shape=True)(params, state, chunk)
  # The shapes leave out the sharding over explicit axes of a mesh.
  leaves, structure = jax.tree.flatten(shapes[1])
  avals = traced.out_avals[len(traced.out_avals) - len(leaves) :]
  return structure.unflatten(
    vary(
      jnp.zeros(
        x.shape,
        x.dtype,
        out_sharding=x.sharding if any(x.sharding.spec) else None,
      ),
      x.manual_axis_type.varying,
    )
    for x in avals
  )


def _summing_in_float32(step, params):
  """Casts short floats in `params` to float32, and back within the step.

  The gradients of all chunks are then summed in float32 and rounded once.
  """
  dtypes = jax.tree.map(lambda x: x.dtype, params)

  def cast(x, dtype):
    # Only if needed: a cast makes weakly typed arrays, such as Python numbers,
    # strongly typed, and PRNG keys cannot be cast.
    return x if x.dtype == dtype else x.astype(dtype)

  def wide(x):
    return cast(x, at_least_float32(x.dtype)) if is_inexact(x) else x

  def narrowing_step(params, state, chunk):
    return step(jax.tree.map(cast, params, dtypes), state, chunk)

  return narrowing_step, jax.tree.map(wide, params)


def _walk(step, state, chunks):
  """Keeps the state at the start of each of the stacked chunks."""
  # XLA does not merge the bodies of two loops.
  return jax.lax.scan(jax.checkpoint(step, prevent_cse=False), state, chunks)


def _walk_in_groups(step, state, chunks):
  """Keeps the state at the start of each group, and recomputes the others."""

  def walk(state, chunks):
    return _walk(step, state, chunks)

  num_chunks = jax.tree.leaves(chunks)[0].shape[0]
  size = _group_size(num_chunks)
  # The short group is the first, like the short chunk.
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
  """Returns the chunks in a group, about √N, to keep few states at a time.

  States kept are one for each group, and one for each chunk of the group that
  is differentiated. A short group adds a second loop with its own gradient
  accumulator, so a size without a short group may keep half more states, and
  twice as many if the short group would be one chunk: XLA unrolls that loop,
  and x86 CPUs with jax <= 0.11.0 then keep its activations.
  """

  def cost(size):
    num_groups, rest = divmod(num_chunks, size)
    return (size + num_groups) * {0: 1, 1: 2}.get(rest, 1.5)

  return min(range(1, 2 * math.isqrt(num_chunks) + 1), key=cost)
