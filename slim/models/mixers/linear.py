"""Attention as a Linen module over the kernels."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import (
  FEATURE_MAPS,
  PrefixSums,
  chunked_linear_attention,
  init_prefix_sums,
  positive_random_features,
  positive_random_query_features,
  token_sums,
)
from slim.models.layers import dense, dense_heads
from slim.models.norms import to_fixed_length


class AttentionState(NamedTuple):
  """What a layer of linear attention remembers of the tokens so far.

  Attributes:
    sums: PrefixSums of the values less `origin`.
    origin: [B, H, V], the value of the first token. Attention weighs values
      with weights that sum to 1, so it may measure them from anywhere; but the
      gradient of a query is a difference, Σ_s k_s (v_s - y), in which what all
      values have in common would leave its rounding error behind.
  """

  sums: PrefixSums
  origin: jax.Array


def init_attention_state(
  batch_size: int,
  num_heads: int,
  num_features: int,
  value_dim: int,
  *,
  dtype,
  compensated: bool,
) -> AttentionState:
  """Makes the state before the first token; see `init_prefix_sums`."""
  sums = init_prefix_sums(
    batch_size,
    num_heads,
    num_features,
    value_dim,
    dtype=dtype,
    compensated=compensated,
  )
  origin = jnp.zeros((batch_size, num_heads, value_dim), dtype)
  return AttentionState(sums, origin)


class LinearAttention(nn.Module):
  """Multi-head causal linear attention, with biases in q, k and v.

  Attributes:
    num_heads: H; divides the width.
    feature_map: A name in `slim.kernels.FEATURE_MAPS`, or "favor".
    qk_norm: Whether queries and keys are scaled to length K^¼, the queries then
      by a learned factor for each dimension of a head. (A factor on the keys
      would do to q · k what one on the queries does, and have no bound.)
    output_projection: Whether a linear map follows the heads.
    dtype: Of the computation; sums are formed in float32 or wider.
  """

  num_heads: int
  feature_map: str
  qk_norm: bool
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    context: tuple[AttentionState, jax.Array | None],
    replay: Any,
    start: Callable[[PrefixSums, PrefixSums], PrefixSums],
  ) -> tuple[jax.Array, tuple[AttentionState, AttentionState], tuple[()]]:
    """Attends from each token to those before it and to itself.

    Args:
      x: [B, T, D].
      context: (state, projection): the sums from which `start` tells those
        before these tokens; and what the random features of "favor" project
        on, [M, K], or None for other feature maps.
      replay: Not used: nothing here is drawn or decided.
      start: `start(sums, update) -> sums_before`, with the sums of these
        tokens as the update: keeps the sums, or takes the update out of them.

    Returns:
      y: [B, T, D].
      states: AttentionState of the tokens before these, and with these.
      replay: ().
    """
    del replay
    state, projection = context
    width = x.shape[-1]
    q, k, v = (
      dense_heads(x, self.num_heads, self.dtype, name)
      for name in ("q", "k", "v")
    )
    if self.qk_norm:
      q = to_fixed_length(q, "q_norm", use_scale=True)
      k = to_fixed_length(k, "k_norm", use_scale=False)
    if self.feature_map == "favor":
      q = positive_random_query_features(q, projection)
      k = positive_random_features(k, projection)
      # The normaliser may have any size, and is 0 for keys beyond reason only.
      eps = 0.0
    else:
      feature_map = FEATURE_MAPS[self.feature_map]
      q, k = feature_map(q), feature_map(k)
      eps = 1e-16
    q, k = q.astype(self.dtype), k.astype(self.dtype)
    # Nothing depends on the origin but the rounding, so it is a constant. Keys
    # may all have vanished so far, and the first value may be zero: not both.
    is_first = ~(
      jnp.any(state.sums.k > 0, -1, keepdims=True)
      | jnp.any(state.origin != 0, -1, keepdims=True)
    )
    origin = jax.lax.stop_gradient(
      jnp.where(is_first, v[:, 0].astype(state.origin.dtype), state.origin)
    )
    v = (v.astype(origin.dtype) - origin[:, None]).astype(self.dtype)
    # Of scores and of states between blocks there are then equally many.
    block_size = max(64, math.isqrt(k.shape[-1] * v.shape[-1]))
    before = start(state.sums, token_sums(k, v, block_size=block_size))
    y, after = chunked_linear_attention(
      q, k, v, before, block_size=block_size, eps=eps
    )
    y = (y.astype(origin.dtype) + origin[:, None]).astype(self.dtype)
    y = y.reshape(x.shape)
    if self.output_projection:
      y = dense(y, width, self.dtype, "out")
    states = AttentionState(before, origin), AttentionState(after, origin)
    return y, states, ()
