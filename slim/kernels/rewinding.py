"""The policy "rewind" of `slim.kernels.scan`: walk forward, then walk back.

The forward walk keeps nothing but the final state. The backward walk asks,
chunk by chunk from the end, for the state before the chunk; the same traced
pass yields the derivatives, so that the chunk is computed once, not twice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.chunks import Chunks
from slim.kernels.hoisting import Hoisted, hoist, zeros_like
from slim.kernels.shapes import check_alike


class _Functions(NamedTuple):
  """What the custom derivative has to know that is not an array.

  The functions are traced; each takes what it once closed over as a first
  argument, and returns (state_before, out, state_after).
  """

  chunks: Chunks
  first: Hoisted
  later: Hoisted
  rewind: Hoisted


def rewinding_scan(
  step: Any, rewind: Any, params: Any, state: Any, xs: Any, chunks: Chunks
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

  Returns:
    The state after the last token, and the outputs along time.

  Raises:
    ValueError: If the step or its `rewind` does not return what it should.
  """

  def forward(params, state, chunk):
    after, out = step(params, state, chunk)
    return state, out, after

  chunk = chunks.later(xs, 0)
  first, first_consts = hoist(forward, params, state, chunks.first(xs))
  later, later_consts = hoist(forward, params, state, chunk)
  rewound, rewind_consts = hoist(rewind, params, state, chunk)
  check_alike(
    "what rewind returns, (state_before, out, state_after),",
    rewound.out,
    later.out,
  )
  state, first_out, later_outs = _scan(
    _Functions(chunks, first, later, rewound),
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
  chunks, first, later, _ = functions
  _, first_out, state = first(consts[0], params, state, chunks.first(xs))

  def forward(state, i):
    _, out, after = later(consts[1], params, state, chunks.later(xs, i))
    return after, out

  state, later_outs = jax.lax.scan(forward, state, jnp.arange(chunks.num_later))
  return state, first_out, later_outs


def _scan_fwd(functions, consts, params, state, xs):
  # Not _scan: its custom derivative would refuse forward over reverse mode in
  # words of its own, before _first_order_only is reached.
  outputs = _walk(functions, consts, params, state, xs)
  return outputs, (consts, params, state, outputs[0], xs)


def _scan_bwd(functions, residuals, cotangents):
  chunks, first, _, rewind = functions
  consts, params, state, final_state, xs = _first_order_only(residuals)
  state_ct, first_ct, later_cts = map(_floats, cotangents)

  def pull_back(fn, consts, state, chunk, out_ct, state_ct):
    """Differentiates one chunk; returns the state before it on the way."""

    def run(consts, params, state, chunk):
      before, out, after = fn(consts, params, state, chunk)
      return (out, after), before

    outputs, vjp, before = jax.vjp(
      run, consts, params, state, chunk, has_aux=True
    )
    cts = vjp(_cotangent(outputs, out_ct + state_ct))
    return before, *map(_floats, cts)

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
    lambda x: zeros_like(x, jnp.promote_types(x.dtype, jnp.float32)),
    (_floats(consts[2]), _floats(params)),
  )
  (_, state_ct, (rewind_ct, totals)), later_cts = jax.lax.scan(
    walk_back,
    (final_state, state_ct, totals),
    (jnp.arange(chunks.num_later), later_cts),
    reverse=True,
  )
  # The first chunk starts from the state that is known.
  _, consts_ct, params_ct, state_ct, chunk_ct = pull_back(
    first,
    consts[0],
    state,
    chunks.first(xs, start=_zero_after((state_ct, totals))),
    first_ct,
    state_ct,
  )
  return (
    # The forward walk's own are done by the backward walk, in rewind_ct.
    (_cotangent(consts[0], consts_ct), None, _cotangent(consts[2], rewind_ct)),
    _cotangent(params, jax.tree.map(_add, totals, params_ct)),
    _cotangent(state, state_ct),
    _cotangent(xs, chunks.unstack(chunk_ct, later_cts)),
  )


_scan.defvjp(_scan_fwd, _scan_bwd)


def _zero_after(tree):
  """An index of 0 that no compiler knows before it knows the arrays.

  Cut there, the first chunk depends on the loop. Otherwise its forward pass
  would be found to have been computed before, and its activations kept while
  the loop runs. (An optimization barrier does nothing on x86 CPUs with
  jax <= 0.11.0.)
  """
  unknown = [jnp.isnan(x.ravel()[0]) for x in jax.tree.leaves(tree) if x.size]
  # A negative index is clamped to 0.
  return jnp.where(jnp.stack(unknown).any(), -1, 0) if unknown else 0


def _add(total, x):
  return total + x.astype(total.dtype)


def _is_float(x):
  return jnp.issubdtype(x.dtype, jnp.inexact)


def _floats(tree):
  """The leaves with a derivative; integers and PRNG keys have none."""
  return [x for x in jax.tree.leaves(tree) if _is_float(x)]


def _cotangent(tree, floats):
  """A cotangent for `tree`: `floats` in place, float0 where there is none."""
  floats = iter(floats)
  return jax.tree.map(
    lambda x: (
      next(floats).astype(x.dtype)
      if _is_float(x)
      else np.zeros(x.shape, jax.dtypes.float0)
    ),
    tree,
  )


@jax.custom_jvp
def _first_order_only(residuals):
  """The identity, once: differentiating the backward walk is refused here."""
  return residuals


@_first_order_only.defjvp
def _refuse(primals, tangents):
  del primals, tangents
  raise ValueError(
    "scan with policy 'rewind' has first derivatives only; for a second "
    "derivative choose policy 'sqrt' or 'store'"
  )
