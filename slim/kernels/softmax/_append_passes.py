"""The passes of attention over an append-only cache.

Both see the tokens in two parts: those in the cache so far, whose number is
known at run time only, and the new ones.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from slim.kernels.softmax._cotangents import (
  Totals,
  add_cotangents,
  zero_queries,
)
from slim.kernels.softmax._from_lse import attend_forward
from slim.kernels.softmax._slices import MergedHeads, set_slice
from slim.kernels.softmax.definition import merge_attention
from slim.kernels.support.custom_derivative import (
  first_order_vjp,
  zeros_for_sum,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.online_softmax import from_residual, to_residual
from slim.kernels.support.opaque import opaque_one


def split_cache(
  cache: Sequence[jax.Array], k: jax.Array, v: jax.Array
) -> list[jax.Array]:
  """Splits the heads of a cache, [B, S, G·X] to [B, S, G, X].

  Args:
    cache: Keys and values.
    k: New keys, [B, T, G, K].
    v: New values, [B, T, G, V].

  Returns:
    Keys and values.
  """
  return [
    x.reshape(*x.shape[:2], *like.shape[2:])
    for x, like in zip(cache, (k, v), strict=True)
  ]


def to_rows(x: jax.Array) -> jax.Array:
  """Undoes `split_cache` for one array."""
  return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def _forward(blocks, past, own, position):
  dtype = at_least_float32(past.v.dtype, own.v.dtype)

  def attend(blocks, inputs):
    y, lse = attend_forward(blocks, inputs)[0]
    return y.astype(dtype), lse.astype(dtype)

  # Write before reading. Otherwise XLA copies the cache that it reads.
  cache = [
    set_slice(to_rows(old), to_rows(new), {1: position})
    for old, new in ((past.k, own.k), (past.v, own.v))
  ]
  k, v = (MergedHeads(x, own.k.shape[2]) for x in cache)
  past = past._replace(k=k, v=v)
  y, lse = merge_attention(list(map(attend, blocks, (past, own))))
  return (y, *cache), (past, own, position, y, to_residual(lse))


def _backward(blocks, residuals, cotangents):
  past, own, position, y, lse = residuals
  y_ct, *cache_ct = cotangents
  cache_ct = [x.astype(at_least_float32(x.dtype)) for x in cache_ct]
  lse = from_residual(lse)
  # The rows of these tokens are read: the sums of their own keys start there.
  own_ct = [
    jax.lax.dynamic_slice_in_dim(x, position, y.shape[1], 1) for x in cache_ct
  ]
  totals = Totals(zero_queries(own.q, lse), *own_ct)
  (q_ct, *own_ct), _, own_consts_ct = add_cotangents(
    blocks[1], own, y, lse, y_ct, 0.0, totals
  )
  # The forward pass has overwritten these rows, so what was there before has no
  # gradient. `opaque_one` makes this write depend on the read above. Otherwise
  # XLA copies the cotangent.
  starts = {1: position * opaque_one(own_ct)}
  cache_ct = [
    set_slice(x, jnp.zeros_like(rows), starts)
    for x, rows in zip(cache_ct, own_ct, strict=True)
  ]
  (q_ct, *cache_ct), _, past_consts_ct = add_cotangents(
    blocks[0], past, y, lse, y_ct, 0.0, Totals(q_ct, *cache_ct)
  )
  # Both parts have the same queries: their gradient is that of the first.
  past_ct = q_ct.reshape(own.q.shape), *split_cache(cache_ct, own.k, own.v)
  own_ct = zeros_for_sum(own.q), *split_cache(own_ct, own.k, own.v)
  return (*past_ct, past_consts_ct), (*own_ct, own_consts_ct), None


append = first_order_vjp(
  _forward,
  _backward,
  lambda blocks: (
    "append_softmax_attention has first derivatives only; for a second "
    "derivative take softmax_attention"
  ),
)
