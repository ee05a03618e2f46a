"""Softmax attention as a Linen module over the kernels, with its cache."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import chunked_softmax_attention, softmax_attention
from slim.models.layers import dense, dense_heads
from slim.models.norms import to_fixed_length
from slim.models.positions import rotate

ATTENTIONS = {
  "softmax": softmax_attention,
  "chunked_softmax": chunked_softmax_attention,
  "local": chunked_softmax_attention,  # Which skips what is out of sight.
}


class KVCache(NamedTuple):
  """What a layer of softmax attention remembers: everything.

  Attributes:
    k: [B, S, H, K], keys; zeros from the position on.
    v: [B, S, H, K], values; likewise.
  """

  k: jax.Array
  v: jax.Array


class SoftmaxAttention(nn.Module):
  """Multi-head causal softmax attention, with biases in q, k and v.

  Attributes:
    num_heads: H; divides the width.
    attention: A name in `ATTENTIONS`.
    window: Of "local": tokens that a token sees, itself among them.
    qk_norm: As of `LinearAttention`.
    rotary: Whether queries and keys are rotated by their positions.
    output_projection: Whether a linear map follows the heads.
    dtype: Of the computation; sums are formed in float32 or wider.
  """

  num_heads: int
  attention: str
  window: int | None
  qk_norm: bool
  rotary: bool
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: tuple[KVCache | None, jax.Array],
    replay: Any,
  ) -> tuple[jax.Array, KVCache | None, tuple[()]]:
    """Attends from each token to those before it and to itself.

    Args:
      x: [B, T, D].
      context: (cache, position): KVCache of the tokens before these, with room
        for these, or None if there are none and these need not be remembered;
        and how many there were, [], int32.
      replay: Not used: nothing here is drawn or decided.

    Returns:
      y: [B, T, D].
      cache: The same with these tokens.
      replay: ().

    Raises:
      ValueError: If T is more than the cache has room for.
    """
    del replay
    cache, position = context
    length, width = x.shape[1:]
    if cache is not None and length > cache.k.shape[1]:
      raise ValueError(
        f"state must have room for the {length} tokens given, got one for "
        f"{cache.k.shape[1]}; see max_tokens of init_state"
      )
    q, k, v = (
      dense_heads(x, self.num_heads, self.dtype, name)
      for name in ("q", "k", "v")
    )
    if self.qk_norm:
      q = to_fixed_length(q, "q_norm", use_scale=True)
      k = to_fixed_length(k, "k_norm", use_scale=False)
    if self.rotary:
      positions = position + jnp.arange(length, dtype=jnp.int32)
      q, k = rotate(q, positions), rotate(k, positions)
    q, k = q.astype(self.dtype), k.astype(self.dtype)
    if cache is not None:
      k, v = cache = KVCache(
        *(
          jax.lax.dynamic_update_slice_in_dim(old, new, position, 1)
          for old, new in zip(cache, (k, v), strict=True)
        )
      )
    window = (self.window - 1, 0) if self.attention == "local" else None
    y = ATTENTIONS[self.attention](
      q,
      k,
      v,
      is_causal=True,
      local_window_size=window,
      query_offset=position,
    )
    y = y.reshape(x.shape)
    if self.output_projection:
      y = dense(y, width, self.dtype, "out")
    return y, cache, ()
