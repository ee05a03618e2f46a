"""Policy "rewind" of `slim.kernels.scan`: walk forward, then walk back.

The forward walk keeps only the final state. The backward walk goes through the
chunks from the end. It asks `rewind` for the state before each chunk, and the
same traced pass yields the gradient, so each chunk is recomputed once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._opaque import opaque_one
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
from slim.kernels.support.custom_derivative import add_to_sum, zeros_for_sum
from slim.kernels.support.mesh_axes import zeros_like
from slim.kernels.support.shapes import check_alike


class _Functions(NamedTuple):
  """The static arguments of the custom derivative.

  Traced functions. Each takes its former closure as the first argument and
  returns (state_before, out, state_after).
  """

  chunks: Chunks
  first: ClosureConverted | None  # For a short first chunk.
  later: ClosureConverted
  rewind: ClosureConverted
  refusal: str  # The message for a second derivative.


def rewinding_scan(
  step: Any,
  rewind: Any,
  params: Any,
  state: Any,
  xs: Any,
  chunks: Chunks,
  refusal: str,
) -> tuple[Any, Any]:
  """Runs `slim.kernels.scan` with policy "rewind".

  Args:
    step: `step(params, state, chunk) -> (state, out)`.
    rewind: `rewind(params, state_after, chunk) -> (state_before, out,
      state_after)`.
    params: Pytree of arrays.
    state: Pytree of arrays.
    xs: Pytree of arrays with time along `chunks.axis`.
    chunks: At least two chunks. If C divides T, all are alike: the first is
      rewound too, so that one forward and one backward program serve all.
    refusal: The message for a second derivative. It names the function that the
      user called.

  Returns:
    The state after the last token, and the outputs along time.

  Raises:
    ValueError: If `rewind` returns other types than `step`, or if a second
      derivative is taken.
  """

  def forward(params, state, chunk):
    after, out = step(params, state, chunk)
    return state, out, after

  chunks = chunks.merge_equal()
  chunk = chunks.later(xs, 0)
  first: ClosureConverted | None = None
  first_consts: list[jax.Array] = []
  if chunks.first_size:
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
  first_out = None
  if first is not None:
    _, first_out, state = first(consts[0], params, state, chunks.first(xs))

  def forward(state, i):
    _, out, after = later(consts[1], params, state, chunks.later(xs, i))
    return after, out

  state, later_outs = jax.lax.scan(forward, state, jnp.arange(chunks.num_later))
  return state, first_out, later_outs


def _scan_fwd(functions, consts, params, state, xs):
  # Calling _scan instead would fail in forward over reverse mode with JAX's own
  # message, before `first_order_only` is reached.
  outputs = _walk(functions, consts, params, state, xs)
  # Only a short first chunk is not rewound.
  start = None if functions.first is None else state
  return outputs, (consts, params, start, outputs[0], xs)


def _scan_bwd(functions, residuals, cotangents):
  chunks, first, _, rewind, refusal = functions
  consts, params, start, final_state, xs = first_order_only(residuals, refusal)
  state_ct, first_ct, later_cts = map(inexact_leaves, cotangents)

  def pull_back(fn, consts, state, chunk, out_ct, state_ct):
    """Differentiates one chunk; also returns the state before it."""

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
    totals = add_to_sum(totals, (consts_ct, params_ct))
    return (before, state_ct, totals), chunk_ct

  def first_back(state_ct, totals):
    """Differentiates the short first chunk, whose initial state is known."""

    def turn(offset, carry):
      state_ct, totals, *_ = carry
      chunk = chunks.first(xs, start=offset)
      _, consts_ct, params_ct, state_ct, chunk_ct = pull_back(
        first, consts[0], start, chunk, first_ct, state_ct
      )
      totals = add_to_sum(totals, params_ct)
      return state_ct, totals, consts_ct, chunk_ct

    # A loop of one turn, as XLA would merge the recomputation with the forward
    # walk and keep its activations. Outside of a loop the sum with the totals
    # may also be another array: a second gradient of all layers.
    nothing = [
      list(map(zeros_like, inexact_leaves(x)))
      for x in (consts[0], chunks.first(xs))
    ]
    return jax.lax.fori_loop(
      0,
      opaque_one((state_ct, totals)),
      turn,
      (state_ct, totals, *nothing),
    )

  totals = zeros_for_sum((inexact_leaves(consts[2]), inexact_leaves(params)))
  (_, state_ct, (rewind_ct, totals)), later_cts = jax.lax.scan(
    walk_back,
    (final_state, state_ct, totals),
    (jnp.arange(chunks.num_later), later_cts),
    reverse=True,
  )
  consts_ct, first_chunk_ct = [], None
  if first is not None:
    state_ct, totals, consts_ct, first_chunk_ct = first_back(state_ct, totals)
  return (
    # None for the closure of the forward walk: rewind_ct has its gradient.
    (cotangent(consts[0], consts_ct), None, cotangent(consts[2], rewind_ct)),
    cotangent(params, totals),
    cotangent(final_state, state_ct),
    cotangent(xs, chunks.unstack(first_chunk_ct, later_cts)),
  )


_scan.defvjp(_scan_fwd, _scan_bwd)
