"""Attention as a Linen module over the kernels."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from slim.kernels import (
  FEATURE_MAPS,
  PrefixSums,
  chunked_linear_attention,
  token_sums,
)
from slim.models.layers import dense


class LinearAttention(nn.Module):
  """Multi-head causal linear attention, with biases in q, k and v.

  Attributes:
    num_heads: H; divides the width.
    feature_map: A name in `slim.kernels.FEATURE_MAPS`.
    output_projection: Whether a linear map follows the heads.
    dtype: Of the computation; sums are formed in float32 or wider.
  """

  num_heads: int
  feature_map: str
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    state: PrefixSums,
    start: Callable[[PrefixSums, PrefixSums], PrefixSums],
  ) -> tuple[jax.Array, PrefixSums, PrefixSums]:
    """Attends from each token to those before it and to itself.

    Args:
      x: [B, T, D].
      state: Sums from which `start` tells those before these tokens.
      start: `start(state, update) -> state_before`, with the sums of these
        tokens as the update: keeps the state, or takes the update out of it.

    Returns:
      y: [B, T, D].
      state_before: PrefixSums of the tokens before these.
      state_after: The same with these.
    """
    width = x.shape[-1]
    q, k, v = (
      dense(x, width, self.dtype, name).reshape(
        *x.shape[:-1], self.num_heads, -1
      )
      for name in ("q", "k", "v")
    )
    feature_map = FEATURE_MAPS[self.feature_map]
    q, k = feature_map(q), feature_map(k)
    before = start(state, token_sums(k, v))
    y, after = chunked_linear_attention(q, k, v, before)
    y = y.reshape(x.shape)
    if self.output_projection:
      y = dense(y, width, self.dtype, "out")
    return y, before, after
