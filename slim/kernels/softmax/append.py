"""Causal softmax attention over a cache that tokens are appended to.

The cache may be a state of `slim.kernels.scan` with policy "rewind". To undo a
chunk, move the position back: rows from there on are out of sight, and the
chunk writes them again. Nothing is stored for the backward pass but the cache
itself. Its cotangent is one array of its size, to which all chunks add.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from slim.kernels.softmax._append_passes import (
  append,
  split_cache,
  to_rows,
)
from slim.kernels.softmax._arguments import (
  Arguments,
  IndexFn,
  check_attention,
)
from slim.kernels.softmax._blocks import split_into_blocks
from slim.kernels.softmax.kv_cache import KVCache
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.explicit_meshes import (
  in_mesh_of_arguments,
  shard_as_tokens,
)
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.not_inlined import checked_as_one
from slim.kernels.support.shapes import (
  as_array,
  check_positive_int,
  check_shape,
  check_static_number,
)


@in_mesh_of_arguments
@checked_as_one
def append_softmax_attention(
  q: ArrayLike,
  k: ArrayLike,
  v: ArrayLike,
  cache: KVCache,
  position: ArrayLike,
  *,
  scale: float | None = None,
  local_window_size: int | tuple[int, int] | None = None,
  mask_fn: IndexFn | None = None,
  precision: jax.lax.PrecisionLike = None,
  q_block_size: int = 512,
  k_block_size: int = 512,
) -> tuple[jax.Array, KVCache]:
  """Writes keys and values into a cache, and attends to all of it causally.

  y_t = Σ_{s≤t} softmax_s(scale · q_t · k_s) v_s over the tokens in the cache
  and these. Blocks of the cache that no query sees are skipped.

  Args:
    q: [B, T, H, K], float. Queries.
    k: [B, T, G, K], float. Keys. G divides H; H/G query heads share a key head.
    v: [B, T, G, V], float. Values.
    cache: KVCache with room for S ≥ position + T tokens; from `init_cache` at
      the start.
    position: [], integer, number of tokens in the cache so far.
    scale: Number, factor of q · k. Default: 1 / √K.
    local_window_size: (left, right), or one number for both, as for
      `softmax_attention_and_lse`; right has no effect.
    mask_fn: `mask_fn(q_index, k_index)`, whether a query sees a key, as for
      `softmax_attention_and_lse`. q_index counts from 0 at the first query,
      k_index from the start of the cache.
    precision: Precision of the products, as in `jax.lax.dot_general`.
    q_block_size: Queries in a block. Need not divide T.
    k_block_size: Keys in a block. Need not divide S.

  Returns:
    y: [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider. The
      attention to the new tokens is rounded to the dtype of `v`, and that to
      the cache to the dtype of the cache, before they are merged.
    cache: KVCache with these tokens. If it has no room for them and `position`
      is traced, the cache is not valid, and y is NaN.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value, if the cache
      has no room, or if the result is differentiated twice.
    TypeError: If it is differentiated in forward mode.

  Memory of the gradient beyond inputs and outputs: y, its log-sum-exp, and a
  few blocks of scores. In a loop that carries the cache, cache and cotangent
  are updated in place.

  References:
    Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682.
  """
  if scale is not None:
    scale = check_static_number("scale", scale)
  sizes = (
    check_positive_int("q_block_size", q_block_size),
    check_positive_int("k_block_size", k_block_size),
  )
  shared = {
    "scale": scale,
    "local_window_size": local_window_size,
    "precision": precision,
  }
  return _attend(q, k, v, cache, position, mask_fn, sizes, shared)


def _attend(q, k, v, cache, position, mask_fn, sizes, shared):
  """Attends to the tokens in the cache, and to the new ones."""
  q, k, v = map(as_array, "qkv", (q, k, v))
  k_cache, v_cache = jax.tree.map(jnp.asarray, cache)
  position = _checked_position(position)
  _check_cache(q, k, v, KVCache(k_cache, v_cache))
  q, k, v, position, *cache = match_varying_axes(
    (q, k, v, position, k_cache, v_cache)
  )
  cache = [
    shard_as_tokens(x, to_rows(new))
    for x, new in zip(cache, (k, v), strict=True)
  ]
  of_past = Arguments(
    q,
    *split_cache(cache, k, v),
    query_offset=position,
    mask_fn=mask_fn,
    num_keys=position,
    **shared,
  )
  of_new = Arguments(
    q,
    k,
    v,
    is_causal=True,
    mask_fn=mask_fn and (lambda i, j: mask_fn(i, j + position)),
    **shared,
  )
  blocks, inputs = zip(
    *(split_into_blocks(check_attention(x), *sizes) for x in (of_past, of_new)),
    strict=True,
  )
  y, *cache = append(blocks, *inputs, position)
  y = jnp.where(_fits(position, k, cache), y.astype(v.dtype), jnp.nan)
  return y, KVCache(*cache)


def _fits(position, k, cache):
  """Whether the tokens fit behind the position; ValueError if that is known."""
  # Not a sum with the position, which might overflow.
  fits = (position >= 0) & (position <= cache[0].shape[1] - k.shape[1])
  if not isinstance(fits, jax.core.Tracer) and not fits:
    raise ValueError(
      f"cache must have room for {k.shape[1]} tokens from position "
      f"{int(position)}, got {cache[0].shape[1]} rows; see init_cache"
    )
  return fits


def _checked_position(position):
  """Returns the position, [], int32; ValueError if it is no integer."""
  position = as_array("position", position)
  if position.shape or not jnp.issubdtype(position.dtype, jnp.integer):
    raise ValueError(
      "position must be one integer, got "
      f"{position.dtype}{list(position.shape)}"
    )
  return position.astype(jnp.int32)


def _check_cache(q, k, v, cache):
  """Raises ValueError unless the tokens fit the cache."""
  check_shape("q", q, "BTHK", {})
  sizes = dict(zip("BTHK", q.shape, strict=True))
  check_shape("k", k, "BTGK", sizes)
  sizes["G"] = k.shape[2]
  check_shape("v", v, "BTGV", sizes)
  for name, x, new in (("k", cache.k, k), ("v", cache.v, v)):
    batch_size, num_tokens, num_heads, width = new.shape
    shape = batch_size, x.shape[1] if x.ndim > 1 else 0, num_heads * width
    if x.shape != shape or x.shape[1] < num_tokens:
      raise ValueError(
        f"cache.{name} must have shape [{batch_size}, S >= {num_tokens}, "
        f"{num_heads * width}], got {list(x.shape)}; see init_cache"
      )
    found = at_least_float32(x.dtype)
    if found != at_least_float32(x.dtype, q.dtype, k.dtype, v.dtype):
      raise ValueError(
        f"cache.{name} must not be narrower than q, k and v, got {x.dtype}; "
        "see init_cache"
      )
