"""A round of LSH attention: tokens sorted by their buckets and cut into chunks.

A query sees the keys of its chunk and of the chunk before, but not its own
token. In another round, with other buckets, it meets other keys.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import (
  at_least_float32,
  smallest_unsigned,
)
from slim.kernels.support.products import matmul_f32


class Settings(NamedTuple):
  """Arguments of `lsh_attention` that are no arrays; see there."""

  chunk_size: int
  is_causal: bool
  count_once: bool
  heads_at_once: int | None


class Round(NamedTuple):
  """A round's order of the tokens, cut into n chunks of c.

  Attributes:
    ranks: [B, H, T], int32: where in the order each token stands.
    order: [B, H, n, c], int32: the token of each place; T where there is none.
    seen: [B, H·n, c, 2c], which keys a query sees: the chunk before, then its
      own.
    count: [B, H·n, c, 2c], the smallest unsigned integer that holds R: in how
      many rounds the two meet; None: not asked for.
  """

  ranks: jax.Array
  order: jax.Array
  seen: jax.Array
  count: jax.Array | None

  def queries(self, x: jax.Array) -> jax.Array:
    """Sorts [B, H, T, X] into [B, H·n, c, X]."""
    return _sorted(x, self.order)

  def keys(self, x: jax.Array) -> jax.Array:
    """Sorts [B, H, T, X] into [B, H·n, 2c, X]: those that a chunk may see."""
    return _with_the_one_before(_sorted(x, self.order), self.order, 0, -2)

  def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
    """Computes [B, H·n, c, 2c] of queries and keys as sorted here."""
    scores = matmul_f32(q, k, (-1, -1))
    if self.count is not None:
      scores -= jnp.log(self.count.astype(scores.dtype))
    return jnp.where(self.seen, scores, -jnp.inf)

  def unsort(self, x: jax.Array) -> jax.Array:
    """Undoes `queries`: [B, H·n, c, X] to [B, H, T, X]."""
    batch, num_heads, num_chunks, size = self.order.shape
    x = x.reshape(batch, num_heads, num_chunks * size, x.shape[-1])
    return jnp.take_along_axis(x, self.ranks[..., None], 2)

  def unsort_keys(self, x: jax.Array) -> jax.Array:
    """Sums over the two chunks that see a key: transposes `keys`."""
    x = x.reshape(*self.order.shape[:3], *x.shape[-2:])
    before, own = jnp.split(x, 2, -2)
    after = jnp.concatenate(
      [before[:, :, 1:], jnp.zeros_like(own[:, :, :1])], 2
    )
    return self.unsort(own + after)


def queries_and_keys(
  scale: jax.Array, qk: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Makes queries and keys of the vectors [B, H, T, K] that they share.

  Args:
    scale: [B, H, 1, 1], float32 or wider.
    qk: [B, H, T, K].

  Returns:
    The queries, scaled, and the keys, at unit length.
  """
  # The scale is rounded as qk is, and the gradient of it is summed widely.
  wide = scale.astype(qk.dtype).astype(scale.dtype) * qk.astype(scale.dtype)
  return wide.astype(qk.dtype), to_unit_length(qk)


def to_unit_length(x: jax.Array) -> jax.Array:
  """Divides vectors by their length, or by 1e-6 where it is less."""
  wide = x.astype(at_least_float32(x.dtype))
  square = jnp.sum(jnp.square(wide), -1, keepdims=True)
  return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-12))).astype(x.dtype)


def by_heads(
  fn: Callable[..., Any], settings: Settings, *arrays: jax.Array
) -> Any:
  """Computes `fn(settings, *arrays)` for some heads after others.

  Args:
    fn: Maps arrays [B, H, …] to arrays [B, H, …], head by head.
    settings: The settings, `heads_at_once` among them.
    *arrays: [B, H, …].

  Returns:
    What `fn` returns for all heads.
  """
  if settings.heads_at_once is None:
    return fn(settings, *arrays)
  heads = arrays[0].shape[:2]
  # A device that has a part of the heads may have fewer.
  size = math.gcd(settings.heads_at_once, heads[1])
  groups = [
    x.reshape(math.prod(heads) // size, 1, size, *x.shape[2:]) for x in arrays
  ]
  found = jax.lax.map(lambda group: fn(settings, *group), groups)
  return jax.tree.map(lambda x: x.reshape(*heads, *x.shape[3:]), found)


def rank_by_bucket(buckets: jax.Array) -> jax.Array:
  """Sorts by (bucket, position).

  Args:
    buckets: [B, H, R, T], unsigned.

  Returns:
    [B, H, R, T], int32: where in the order of its round each token stands.
  """
  order = jnp.argsort(buckets, -1, stable=True).astype(jnp.int32)
  return _inverse(order, order.shape[-1])


def make_round(settings: Settings, ranks: jax.Array, r: jax.Array) -> Round:
  """Makes round r.

  Args:
    settings: The settings.
    ranks: [B, H, R, T], from `rank_by_bucket`.
    r: Which round.

  Returns:
    Round.
  """
  *heads, num_rounds, length = ranks.shape
  size = settings.chunk_size
  num_chunks = -(-length // size)

  def pairs(of_token, nothing):
    """What is known of queries and of keys, which broadcast to `seen`."""
    keys = _with_the_one_before(of_token, order, nothing, -1)
    return of_token[..., :, None], keys[..., None, :]

  def of_round(r):
    return jax.lax.dynamic_index_in_dim(ranks, r, 2, keepdims=False)

  order = _inverse(of_round(r), num_chunks * size)
  order = order.reshape(*heads, num_chunks, size)
  tokens = order.reshape(heads[0], heads[1] * num_chunks, size)
  query, key = pairs(tokens, length)
  # A place without a token sees nothing, or its derivative would reach keys.
  seen = (key != query) & (key < length) & (query < length)
  if settings.is_causal:
    seen &= key <= query
  count = None
  if settings.count_once and num_rounds > 1:

    def add(r, count):
      chunk = _sorted(of_round(r)[..., None] // size, order)[..., 0]
      query, key = pairs(chunk, 0)
      return count + ((key == query) | (key == query - 1)).astype(count.dtype)

    zero = jnp.zeros(seen.shape, smallest_unsigned(num_rounds))
    # Pairs that are not seen here may meet nowhere: no log(0).
    count = jnp.maximum(jax.lax.fori_loop(0, num_rounds, add, zero), 1)
  return Round(of_round(r), order, seen, count)


def _inverse(permutation, length):
  """The inverse along the last axis, filled to `length` with its own length."""
  given = permutation.shape[-1]
  return jnp.put_along_axis(
    jnp.full((*permutation.shape[:-1], length), given, jnp.int32),
    permutation,
    jnp.broadcast_to(jnp.arange(given, dtype=jnp.int32), permutation.shape),
    -1,
    inplace=False,
  )


def _sorted(x, order):
  """[B, H, T, X] as [B, H·n, c, X]; ranks without a token hold the last."""
  batch, num_heads, num_chunks, size = order.shape
  flat = order.reshape(batch, num_heads, num_chunks * size, 1)
  x = jnp.take_along_axis(x, flat, 2, mode="clip")
  return x.reshape(batch, num_heads * num_chunks, size, x.shape[-1])


def _with_the_one_before(x, order, nothing, axis):
  """Puts before each chunk of a head the one before it, along `axis`.

  `x` is [B, H·n, c, …]; the first chunk of a head gets `nothing`.
  """
  by_head = x.reshape(*order.shape[:3], *x.shape[2:])
  none = jnp.full_like(by_head[:, :, :1], nothing)
  before = jnp.concatenate([none, by_head[:, :, :-1]], 2)
  return jnp.concatenate([before.reshape(x.shape), x], axis)
