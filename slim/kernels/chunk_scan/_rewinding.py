"""Policy "rewind" of `slim.kernels.scan`: walk forward, then walk back.

The forward walk keeps the final state, and of each chunk those leaves that
cannot be undone. The backward walk goes through the chunks from the end. It
asks `rewind` for the state before each chunk, and the same traced pass yields
the gradient, so each chunk is recomputed once.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._packing import pack, unpack
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
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
from slim.kernels.support.opaque import opaque_one
from slim.kernels.support.shapes import check_alike


class _Functions(NamedTuple):
  """The static arguments of the custom derivative.

  Traced functions. Each takes its former closure as the first argument and
  returns (state_before, out, state_after).
  """

  chunks: Chunks
  kept: KeptLeaves
  first: ClosureConverted | None  # For a short first chunk.
  later: ClosureConverted
  first_rewind: ClosureConverted | None
  rewind: ClosureConverted
  refusal: str  # The message for a second derivative.


def rewinding_scan(
  step: Any,
  rewind: Any,
  params: Any,
  state: Any,
  xs: Any,
  chunks: Chunks,
  kept: Any,
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
    chunks: At least two chunks.
    kept: Pytree of booleans, the structure of the state or a prefix of it.
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
  leaves = KeptLeaves.of(kept, state)

  def trace(chunk):
    stepped, consts = closure_to_arguments(forward, params, state, chunk)
    rewound, rewind_consts = closure_to_arguments(rewind, params, state, chunk)
    check_alike(
      "what rewind returns, (state_before, out, state_after),",
      rewound.out,
      stepped.out,
    )
    return (stepped, rewound), (consts, rewind_consts)

  # A short first chunk is undone, too. To keep the initial state instead would
  # be to keep a second copy of a cache.
  first: Any = (None, None)
  first_consts: Any = ([], [])
  if chunks.first_size:
    first, first_consts = trace(chunks.first(xs))
  later, later_consts = trace(chunks.later(xs, 0))
  (step_first, rewind_first), (step_later, rewind_later) = first, later
  functions = _Functions(
    chunks, leaves, step_first, step_later, rewind_first, rewind_later, refusal
  )
  consts = zip(first_consts, later_consts, strict=True)
  state, first_out, later_outs = _scan(
    functions, tuple(consts), params, state, xs
  )
  return state, chunks.unstack(first_out, later_outs)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(functions, consts, params, state, xs):
  return _walk(functions, consts, params, state, xs)[0]


def _walk(functions, consts, params, state, xs):
  """Returns the outputs, and the kept leaves before each later chunk."""
  chunks, kept, first, later, *_ = functions
  (first_consts, later_consts), _ = consts
  first_out = None
  if first is not None:
    _, first_out, state = first(first_consts, params, state, chunks.first(xs))

  def forward(state, i):
    _, out, after = later(later_consts, params, state, chunks.later(xs, i))
    return after, (out, pack(kept.select(state)))

  state, (later_outs, packed) = jax.lax.scan(
    forward, state, jnp.arange(chunks.num_later)
  )
  return (state, first_out, later_outs), packed


def _scan_fwd(functions, consts, params, state, xs):
  # Calling _scan instead would fail in forward over reverse mode with JAX's own
  # message, before `first_order_only` is reached.
  outputs, packed = _walk(functions, consts, params, state, xs)
  start = functions.kept.select(state)
  return outputs, (consts, params, start, packed, outputs[0], xs)


def _scan_bwd(functions, residuals, cotangents):
  chunks, kept, first, _, rewind_first, rewind, refusal = functions
  residuals = first_order_only(residuals, refusal)
  (consts, rewind_consts), params, start, packed, last, xs = residuals
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

  def walk_back(carry, of_chunk):
    i, packed, out_ct = of_chunk
    undone, state_ct, totals = carry
    before, consts_ct, params_ct, state_ct, chunk_ct = pull_back(
      rewind,
      rewind_consts[1],
      kept.merge(unpack(packed, start), undone),
      chunks.later(xs, i),
      out_ct,
      state_ct,
    )
    totals = add_to_sum(totals, (consts_ct, params_ct))
    return (kept.others(before), state_ct, totals), chunk_ct

  def first_back(undone, state_ct, totals):
    """Differentiates the short first chunk."""

    def turn(offset, carry):
      state_ct, totals, *_ = carry
      _, consts_ct, params_ct, state_ct, chunk_ct = pull_back(
        rewind_first,
        rewind_consts[0],
        kept.merge(start, undone),
        chunks.first(xs, start=offset),
        first_ct,
        state_ct,
      )
      totals = add_to_sum(totals, params_ct)
      return state_ct, totals, consts_ct, chunk_ct

    # A loop of one turn, as XLA would merge the recomputation with the forward
    # walk and keep its activations. Outside of a loop the sum with the totals
    # may also be another array: a second gradient of all layers.
    nothing = [
      list(map(zeros_like, inexact_leaves(x)))
      for x in (rewind_consts[0], chunks.first(xs))
    ]
    return jax.lax.fori_loop(
      0,
      opaque_one((state_ct, totals)),
      turn,
      (state_ct, totals, *nothing),
    )

  totals = zeros_for_sum(
    (inexact_leaves(rewind_consts[1]), inexact_leaves(params))
  )
  (undone, state_ct, (later_consts_ct, totals)), later_cts = jax.lax.scan(
    walk_back,
    (kept.others(last), state_ct, totals),
    (jnp.arange(chunks.num_later), packed, later_cts),
    reverse=True,
  )
  first_consts_ct, first_chunk_ct = [], None
  if first is not None:
    state_ct, totals, first_consts_ct, first_chunk_ct = first_back(
      undone, state_ct, totals
    )
  # None for the closures of the forward walk: those of the walk back, which
  # computes the same, have their gradients.
  rewind_cts = map(cotangent, rewind_consts, (first_consts_ct, later_consts_ct))
  return (
    (None, tuple(rewind_cts)),
    cotangent(params, totals),
    cotangent(last, state_ct),
    cotangent(xs, chunks.unstack(first_chunk_ct, later_cts)),
  )


_scan.defvjp(_scan_fwd, _scan_bwd)
