"""A round of LSH attention: tokens sorted by bucket and cut into blocks.

A query sees the keys of its block and of the block before, except its own. In
another round, with other buckets, it meets other keys.

`lsh_attention` calls the size of these blocks `chunk_size`, as the Reformer
paper does. They are not the chunks of `slim.kernels.scan`.
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
from slim.kernels.support.mesh_axes import zeros_like
from slim.kernels.support.products import matmul_f32


class Settings(NamedTuple):
  """The static arguments of `lsh_attention`."""

  block_size: int  # Its argument `chunk_size`.
  is_causal: bool
  count_once: bool
  heads_at_once: int | None


class Round(NamedTuple):
  """The tokens in the order of one round, cut into n blocks of c.

  Attributes:
    ranks: [B, H, T], int32: the rank of each token in the order.
    order: [B, H, n, c], int32: the token of each rank; T if there is none.
    seen: [B, H·n, c, 2c], bool: which keys a query sees, first those of the
      block before, then those of its own.
    num_meetings: [B, H·n, c, 2c], the smallest unsigned integer type that holds
      R: in how many rounds a query and key meet. None if it is not needed.
  """

  ranks: jax.Array
  order: jax.Array
  seen: jax.Array
  num_meetings: jax.Array | None

  def queries(self, x: jax.Array) -> jax.Array:
    """Sorts [B, H, T, X] to [B, H·n, c, X]."""
    return _sorted(x, self.order)

  def keys(self, x: jax.Array) -> jax.Array:
    """Sorts [B, H, T, X] to [B, H·n, 2c, X], the keys that a block may see."""
    return _prepend_previous(_sorted(x, self.order), self.order, 0, -2)

  def scores(self, q: jax.Array, k: jax.Array) -> jax.Array:
    """Computes scores [B, H·n, c, 2c] of sorted queries and keys."""
    scores = matmul_f32(q, k, (-1, -1))
    if self.num_meetings is not None:
      scores -= jnp.log(self.num_meetings.astype(scores.dtype))
    return jnp.where(self.seen, scores, -jnp.inf)

  def unsort(self, x: jax.Array) -> jax.Array:
    """Undoes `queries`: sorts [B, H·n, c, X] to [B, H, T, X]."""
    batch, num_heads, num_blocks, size = self.order.shape
    x = x.reshape(batch, num_heads, num_blocks * size, x.shape[-1])
    return jnp.take_along_axis(x, self.ranks[..., None], 2)

  def unsort_keys(self, x: jax.Array) -> jax.Array:
    """The transpose of `keys`: sums over the two blocks that see a key."""
    x = x.reshape(*self.order.shape[:3], *x.shape[-2:])
    before, own = jnp.split(x, 2, -2)
    after = jnp.concatenate(
      [before[:, :, 1:], jnp.zeros_like(own[:, :, :1])], 2
    )
    return self.unsort(own + after)


def queries_and_keys(
  scale: jax.Array, qk: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Makes queries and keys of the vectors that they share.

  Args:
    scale: [B, H, 1, 1], float32 or wider.
    qk: [B, H, T, K].

  Returns:
    The scaled queries, and the keys with unit length.
  """
  if scale.dtype != qk.dtype:
    # It is rounded like qk, but its gradient is summed in its own dtype.
    rounded = scale.astype(qk.dtype).astype(scale.dtype)
    scale += jax.lax.stop_gradient(rounded - scale)
  wide = scale * qk.astype(scale.dtype)
  return wide.astype(qk.dtype), to_unit_length(qk)


def to_unit_length(x: jax.Array) -> jax.Array:
  """Divides vectors by their length, or by 1e-6 if that is larger."""
  wide = x.astype(at_least_float32(x.dtype))
  square = jnp.sum(jnp.square(wide), -1, keepdims=True)
  return (wide * jax.lax.rsqrt(jnp.maximum(square, 1e-12))).astype(x.dtype)


def by_heads(
  fn: Callable[..., Any], settings: Settings, *arrays: jax.Array
) -> Any:
  """Computes `fn(settings, *arrays)` for `heads_at_once` heads at a time.

  Args:
    fn: Maps arrays [B, H, …] to arrays [B, H, …], independently per head.
    settings: The static arguments.
    *arrays: [B, H, …].

  Returns:
    What `fn` returns for all heads.
  """
  if settings.heads_at_once is None:
    return fn(settings, *arrays)
  heads = arrays[0].shape[:2]
  # A device may hold fewer heads than that.
  size = math.gcd(settings.heads_at_once, heads[1])
  groups = [
    x.reshape(math.prod(heads) // size, 1, size, *x.shape[2:]) for x in arrays
  ]
  found = jax.lax.map(lambda group: fn(settings, *group), groups)
  return jax.tree.map(lambda x: x.reshape(*heads, *x.shape[3:]), found)


def rank_by_bucket(buckets: jax.Array) -> jax.Array:
  """Ranks the tokens of each round by (bucket, position).

  Args:
    buckets: [B, H, R, T], unsigned.

  Returns:
    [B, H, R, T], int32: the rank of each token.
  """
  order = jnp.argsort(buckets, -1, stable=True).astype(jnp.int32)
  return _inverse(order, order.shape[-1])


def make_round(settings: Settings, ranks: jax.Array, r: jax.Array) -> Round:
  """Makes round r.

  Args:
    settings: The static arguments.
    ranks: [B, H, R, T], from `rank_by_bucket`.
    r: [], int32: which round.

  Returns:
    The round.
  """
  *heads, num_rounds, length = ranks.shape
  size = settings.block_size
  num_blocks = -(-length // size)

  def pairs(of_token, nothing):
    """Returns per-token values of queries and keys that broadcast to `seen`."""
    keys = _prepend_previous(of_token, order, nothing, -1)
    return of_token[..., :, None], keys[..., None, :]

  def of_round(r):
    return jax.lax.dynamic_index_in_dim(ranks, r, 2, keepdims=False)

  order = _inverse(of_round(r), num_blocks * size)
  order = order.reshape(*heads, num_blocks, size)
  tokens = order.reshape(heads[0], heads[1] * num_blocks, size)
  query, key = pairs(tokens, length)
  # A rank without a token must see nothing, or its gradient would reach keys.
  seen = (key != query) & (key < length) & (query < length)
  if settings.is_causal:
    seen &= key <= query
  count = None
  if settings.count_once and num_rounds > 1:

    def add(r, count):
      block = _sorted(of_round(r)[..., None] // size, order)[..., 0]
      query, key = pairs(block, 0)
      return count + ((key == query) | (key == query - 1)).astype(count.dtype)

    zero = zeros_like(seen, smallest_unsigned(num_rounds))
    # At least 1: pairs that are not seen here may meet in no round.
    count = jnp.maximum(jax.lax.fori_loop(0, num_rounds, add, zero), 1)
  return Round(of_round(r), order, seen, count)


def _inverse(permutation, length):
  """Inverts along the last axis, and pads to `length` with its old length."""
  given = permutation.shape[-1]
  return jnp.put_along_axis(
    jnp.full((*permutation.shape[:-1], length), given, jnp.int32),
    permutation,
    jnp.broadcast_to(jnp.arange(given, dtype=jnp.int32), permutation.shape),
    -1,
    inplace=False,
  )


def _sorted(x, order):
  """Sorts [B, H, T, X] to [B, H·n, c, X]; missing tokens repeat the last."""
  batch, num_heads, num_blocks, size = order.shape
  flat = order.reshape(batch, num_heads, num_blocks * size, 1)
  x = jnp.take_along_axis(x, flat, 2, mode="clip")
  return x.reshape(batch, num_heads * num_blocks, size, x.shape[-1])


def _prepend_previous(x, order, nothing, axis):
  """Concatenates to each block of [B, H·n, c, …] the one before, along `axis`.

  The first block of a head has none before, and gets `nothing`.
  """
  by_head = x.reshape(*order.shape[:3], *x.shape[2:])
  none = jnp.full_like(by_head[:, :, :1], nothing)
  before = jnp.concatenate([none, by_head[:, :, :-1]], 2)
  return jnp.concatenate([before.reshape(x.shape), x], axis)
