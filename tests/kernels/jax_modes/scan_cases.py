"""Calls of chunk scans, position-wise maps and reversible layers."""

import functools

import jax
import jax.numpy as jnp

from slim import kernels
from slim.kernels.support.dtypes import at_least_float32
from tests.kernels.jax_modes.case import CASES, B, Case, K, T, case, keys


def _mlp(params, x):
  return jnp.tanh(x @ params[0]) @ params[1]


@case("chunked_map chunked_sum", (B, T, K), (K, 6), (6, K))
def _position_wise(x, *params):
  return (
    kernels.chunked_map(_mlp, params, x, chunk_size=2),
    kernels.chunked_sum(
      lambda params, x: _mlp(params, x).sum(), params, x, chunk_size=2
    ),
  )


def make_sum_over_tokens(shift):
  """Makes step and rewind: dropout, and a closure over an array."""

  def hidden(kernel, start, x):
    position = start + jnp.arange(x.shape[1], dtype=jnp.int32)
    kept = jax.vmap(
      lambda t: jax.random.bernoulli(jax.random.fold_in(keys()[0], t))
    )(position)
    h = jnp.tanh(x @ kernel + shift[None, None])
    return jnp.where(kept[None, :, None], h, 0)

  def add(total, h):
    sums = total[:, None] + jnp.cumsum(h, 1)
    return sums[:, -1], sums

  def step(kernel, state, x):
    total, start = state
    total, out = add(total, hidden(kernel, start, x))
    return (total, start + x.shape[1]), out

  def rewind(kernel, after, x):
    total, start = after[0], after[1] - x.shape[1]
    h = hidden(kernel, start, x)
    before = total - jax.lax.stop_gradient(h.sum(1))
    total, out = add(before, h)
    return (before, start), out, (total, after[1])

  return step, rewind


def _scan(policy, kernel, shift, state, x):
  step, rewind = make_sum_over_tokens(shift)
  (total, _), out = kernels.scan(
    step,
    kernel,
    (state, jnp.int32(0)),
    x,
    chunk_size=2,
    policy=policy,
    rewind=rewind,
  )
  return total, out


def _sum_and_grad(policy, *args):
  # Its result has no derivatives.
  kernel, shift, state, x = map(jax.lax.stop_gradient, args)
  step, rewind = make_sum_over_tokens(shift)

  def loss(out):
    return jnp.square(out.astype(jnp.float32)).sum()

  def summing_step(*args):
    state, out = step(*args)
    return state, loss(out)

  def summing_rewind(*args):
    before, out, after = rewind(*args)
    return before, loss(out), after

  return kernels.sum_and_grad(
    summing_step,
    kernel,
    (state, jnp.int32(0)),
    x,
    chunk_size=2,
    policy=policy,
    rewind=summing_rewind,
  )


for policy in kernels.POLICIES:
  for names, fn in (
    (("scan", "POLICIES"), _scan),
    (("sum_and_grad",), _sum_and_grad),
  ):
    CASES[f"{names[0]}_{policy}"] = Case(
      names,
      functools.partial(fn, policy),
      ((K, K), (K,), (B, K), (B, 7, K)),
    )


def _sublayer(gain, params, x, context, replay):
  if replay is None:
    replay = (x > 0).astype(jnp.int8)
  y = jnp.tanh(x @ params.astype(x.dtype)) * gain.astype(x.dtype)
  return y, context * 2, replay


REVERSIBLE = (2, K, K), (B, T, K), (B, T, K), (2, B), ()


@case("reversible", *REVERSIBLE)
def _reversible(w, one, two, contexts, gain):
  return kernels.reversible(
    [functools.partial(_sublayer, gain)] * 2, w, wide(one, two), contexts
  )


@case("reversible_scan", *REVERSIBLE)
def _reversible_scan(w, one, two, contexts, gain):
  return kernels.reversible_scan(
    [functools.partial(_sublayer, gain)] * 2,
    [w, w],
    wide(one, two),
    [contexts, contexts],
  )


def wide(*streams):
  """Makes streams float32 or wider."""
  return tuple(x.astype(at_least_float32(x.dtype)) for x in streams)
