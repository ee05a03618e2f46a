"""The cache of causal softmax attention."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.typing import DTypeLike


class KVCache(NamedTuple):
  """Keys and values of the tokens so far, with room for more.

  The heads of a token are side by side. On TPUs an axis of narrow heads would
  take up to twice the memory.

  Attributes:
    k: [B, S, G·K], keys; anything finite from the position on.
    v: [B, S, G·V], values; likewise.
  """

  k: jax.Array
  v: jax.Array


# `jax.export` serializes functions that take or return it.
export.register_namedtuple_serialization(
  KVCache, serialized_name="slim.KVCache"
)


def init_cache(
  batch_size: int,
  max_tokens: int,
  num_heads: int,
  key_dim: int,
  value_dim: int,
  *,
  dtype: DTypeLike = jnp.float32,
) -> KVCache:
  """Makes the cache before the first token.

  Args:
    batch_size: B.
    max_tokens: S, tokens that it has room for.
    num_heads: G, heads of keys.
    key_dim: K.
    value_dim: V.
    dtype: Of the cache. Its cotangent has the same dtype, and is rounded once a
      chunk: take float32 or wider to differentiate over many chunks.

  Returns:
    KVCache of zeros.
  """
  shape = batch_size, max_tokens
  return KVCache(
    jnp.zeros((*shape, num_heads * key_dim), dtype),
    jnp.zeros((*shape, num_heads * value_dim), dtype),
  )
