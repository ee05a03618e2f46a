"""The policy "rewind" of `slim.kernels.scan`: walk forward, then walk back.

The forward walk keeps nothing but the final state. The backward walk asks,
chunk by chunk from the end, for the state before the chunk; the same traced
pass yields the derivatives, so that the chunk is computed once, not twice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.support.closures import (
  ClosureConverted,
  closure_to_arguments,
)
from slim.kernels.support.cotangents import (
  cotangent,
  first_order_only,
  inexact_leaves,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.explicit_meshes import is_sharded
from slim.kernels.support.mesh_axes import zeros_like
from slim.kernels.support.shapes import check_alike


class _Functions(NamedTuple):
  """What the custom derivative has to know that is not an array.

  The functions are traced; each takes what it once closed over as a first
  argument, and returns (state_before, out, state_after).
  """

  chunks: Chunks
  first: ClosureConverted
  later: ClosureConverted
  rewind: ClosureConverted
  refusal: str  # Of a second derivative.


def rewinding_scan(
  step: Any,
  rewind: Any,
  params: Any,
  state: Any,
  xs: Any,
  chunks: Chunks,
  refusal: str,
) -> tuple[Any, Any]:
  """Runs `scan` under the policy "rewind"; see there.

  Args:
    step: `step(params, state, chunk) -> (state, out)`.
    rewind: `rewind(params, state_after, chunk) -> (state_before, out,
      state_after)`.
    params: Pytree of arrays.
    state: Pytree of arrays.
    xs: Pytree of arrays with time along `chunks.axis`.
    chunks: The cut of the sequence, into at least two chunks.
    refusal: The message for a second derivative, which names what the user
      called.

  Returns:
    The state after the last token, and the outputs along time.

  Raises:
    ValueError: If the step or its `rewind` does not return what it should, or
      a second derivative is asked for.
  """

  def forward(params, state, chunk):
    after, out = step(params, state, chunk)
    return state, out, after

  chunk = chunks.later(xs, 0)
  first, first_consts = closure_to_arguments(
    forward, params, state, chunks.first(xs)
  )
  later, later_consts = closure_to_arguments(forward, params, state, chunk)
  rewound, rewind_consts = closure_to_arguments(rewind, params, state, chunk)
  check_alike(
    "what rewind returns, (state_before, out, state_after),",
    rewound.out,
    later.out,
  )
  state, first_out, later_outs = _scan(
    _Functions(chunks, first, later, rewound, refusal),
    (first_consts, later_consts, rewind_consts),
    params,
    state,
    xs,
  )
  return state, chunks.unstack(first_out, later_outs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(functions, consts, params, state, xs):
  return _walk(functions, consts, params, state, xs)


def _walk(functions, consts, params, state, xs):
  chunks, first, later, *_ = functions
  _, first_out, state = first(consts[0], params, state, chunks.first(xs))

  def forward(state, i):
    _, out, after = later(consts[1], params, state, chunks.later(xs, i))
    return after, out

  state, later_outs = jax.lax.scan(forward, state, jnp.arange(chunks.num_later))
  return state, first_out, later_outs


def _scan_fwd(functions, consts, params, state, xs):
  # Not _scan: its custom derivative would refuse forward over reverse mode in
  # words of its own, before `first_order_only` is reached.
  outputs = _walk(functions, consts, params, state, xs)
  return outputs, (consts, params, state, outputs[0], xs)


def _scan_bwd(functions, residuals, cotangents):
  chunks, first, _, rewind, refusal = functions
  consts, params, state, final_state, xs = first_order_only(residuals, refusal)
  state_ct, first_ct, later_cts = map(inexact_leaves, cotangents)

  def pull_back(fn, consts, state, chunk, out_ct, state_ct):
    """Differentiates one chunk; returns the state before it on the way."""

    def run(consts, params, state, chunk):
      before, out, after = fn(consts, params, state, chunk)
      return (out, after), before

    outputs, vjp, before = jax.vjp(
      run, consts, params, state, chunk, has_aux=True
    )
    cts = vjp(cotangent(outputs, out_ct + state_ct))
    return before, *map(inexact_leaves, cts)

  def walk_back(carry, i_and_out_ct):
    i, out_ct = i_and_out_ct
    after, state_ct, totals = carry
    before, consts_ct, params_ct, state_ct, chunk_ct = pull_back(
      rewind, consts[2], after, chunks.later(xs, i), out_ct, state_ct
    )
    totals = jax.tree.map(_add, totals, (consts_ct, params_ct))
    return (before, state_ct, totals), chunk_ct

  # Gradients are summed over the chunks in float32 or wider, and rounded once.
  totals = jax.tree.map(
    lambda x: zeros_like(x, at_least_float32(x.dtype)),
    (inexact_leaves(consts[2]), inexact_leaves(params)),
  )
  (_, state_ct, (rewind_ct, totals)), later_cts = jax.lax.scan(
    walk_back,
    (final_state, state_ct, totals),
    (jnp.arange(chunks.num_later), later_cts),
    reverse=True,
  )

  def first_back(start, carry):
    state_ct, totals, *_ = carry
    # The first chunk starts from the state that is known.
    chunk = chunks.first(xs, start=start)
    _, consts_ct, params_ct, state_ct, chunk_ct = pull_back(
      first, consts[0], state, chunk, first_ct, state_ct
    )
    totals = jax.tree.map(_add, totals, params_ct)
    return state_ct, totals, consts_ct, chunk_ct

  # Once, in a loop: its forward pass is not found to have been computed before,
  # with all activations kept until here. And loops sum in place, but what is
  # added behind a loop may be put elsewhere: a second gradient of all layers.
  nothing = [
    list(map(zeros_like, inexact_leaves(x)))
    for x in (consts[0], chunks.first(xs))
  ]
  state_ct, totals, consts_ct, chunk_ct = jax.lax.fori_loop(
    0,
    _one_after((state_ct, totals)),
    first_back,
    (state_ct, totals, *nothing),
  )
  return (
    # The forward walk's own are done by the backward walk, in rewind_ct.
    (cotangent(consts[0], consts_ct), None, cotangent(consts[2], rewind_ct)),
    cotangent(params, totals),
    cotangent(state, state_ct),
    cotangent(xs, chunks.unstack(chunk_ct, later_cts)),
  )


_scan.defvjp(_scan_fwd, _scan_bwd)


def _one_after(tree):
  """A 1 that no compiler knows: a loop of one turn would be no loop to it."""
  # An element of a sharded array is on one device; a sum is on all of them.
  unknown = [
    jnp.isnan(x.sum() if is_sharded(x) else x.ravel()[0])
    for x in jax.tree.leaves(tree)
    if x.size
  ]
  if not unknown:
    return 1
  return 1 + (jnp.stack(unknown).any().astype(jnp.int32) >> 1)


def _add(total, x):
  return total + x.astype(total.dtype)
