"""The Performer language model: linear attention and an MLP, layer by layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from slim.kernels import PrefixSums
from slim.models.attention import LinearAttention
from slim.models.layers import MLP, Embedding, dense, dropout, layer_norm

NORMS = ("pre", "post", "output")


class PerformerState(NamedTuple):
  """All that the model remembers of the tokens so far.

  Attributes:
    position: [], int32: how many tokens there were.
    layers: One PrefixSums a layer.
  """

  position: jax.Array
  layers: tuple[PrefixSums, ...]


class Performer(nn.Module):
  """The network; `create_model` wraps it in plain functions.

  Each sublayer f, attention and MLP, is added to its input in one of three
  ways: x + f(LN(x)) is "pre", LN(x + f(x)) "post", x + LN(f(x)) "output".
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  mlp_width: int
  feature_map: str
  norm: str
  output_projection: bool
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    state: PerformerState,
    keys: jax.Array | None,
    start: Callable[[PrefixSums, PrefixSums], PrefixSums],
  ) -> tuple[PerformerState, jax.Array, PerformerState]:
    """Predicts the token that follows each.

    Args:
      tokens: [B, T], int32.
      state: Its position is that of the first of the tokens; `start` tells the
        sums before the tokens from its layers.
      keys: [B], PRNG keys for dropout, or None for no dropout.
      start: See `LinearAttention`.

    Returns:
      state_before: PerformerState before the tokens.
      logits: [B, T, vocab_size], float32 or wider.
      state_after: PerformerState after the tokens.
    """
    positions = state.position + jnp.arange(tokens.shape[1])

    def drop(x, site):
      folded = keys if keys is None else jax.vmap(fold, (0, None))(keys, site)
      return dropout(x, self.dropout, folded, positions)

    fold = jax.random.fold_in
    x = Embedding(self.vocab_size, self.width, self.dtype, name="embedding")(
      tokens, positions
    )
    x = drop(x, 0)
    before, after = [], []
    for i, layer_state in enumerate(state.layers):
      block = Block(
        self.num_heads,
        self.mlp_width,
        self.feature_map,
        self.norm,
        self.output_projection,
        self.dtype,
        name=f"layer_{i}",
      )
      x, layer_before, layer_after = block(
        x,
        layer_state,
        start,
        lambda x, sublayer, i=i: drop(x, 1 + 2 * i + sublayer),
      )
      # The name by which the gradient method "remat" knows what to keep.
      x = checkpoint_name(x, "layer_output")
      before.append(layer_before)
      after.append(layer_after)
    logits = dense(x, self.vocab_size, self.dtype, "logits")
    end = state.position + tokens.shape[1]
    return (
      PerformerState(state.position, tuple(before)),
      logits,
      PerformerState(end, tuple(after)),
    )


class Block(nn.Module):
  """One layer: attention, then an MLP, each added to its input."""

  num_heads: int
  mlp_width: int
  feature_map: str
  norm: str
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(self, x, state, start, drop):
    """Maps x [B, T, D] to [B, T, D]; see `LinearAttention` for the states.

    `drop(x, sublayer)` drops elements of what sublayer 0 or 1 adds.
    """
    attention = LinearAttention(
      self.num_heads,
      self.feature_map,
      self.output_projection,
      self.dtype,
      name="attention",
    )
    mlp = MLP(self.mlp_width, self.dtype, name="mlp")
    attention_norm = layer_norm(self.dtype, "attention_norm")
    mlp_norm = layer_norm(self.dtype, "mlp_norm")

    if self.norm == "pre":
      y, before, after = attention(attention_norm(x), state, start)
      x = x + drop(y, 0)
      return x + drop(mlp(mlp_norm(x)), 1), before, after
    y, before, after = attention(x, state, start)
    if self.norm == "post":
      x = attention_norm(x + drop(y, 0))
      return mlp_norm(x + drop(mlp(x), 1)), before, after
    x = x + drop(attention_norm(y), 0)
    return x + drop(mlp_norm(mlp(x)), 1), before, after
