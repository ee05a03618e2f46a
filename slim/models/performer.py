"""The Performer language model: linear attention and an MLP, layer by layer.

The layers are Linen modules; the model is plain functions over them, so that a
transformation such as `jax.checkpoint` is applied from outside.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import PrefixSums
from slim.models.attention import AttentionState, LinearAttention
from slim.models.layers import (
  MLP,
  Embedding,
  LayerNorm,
  Logits,
  dropout,
)
from slim.types import Params

NORMS = ("pre", "post", "output")


class PerformerState(NamedTuple):
  """All that the model remembers of the tokens so far.

  Attributes:
    position: [], int32: how many tokens there were.
    layers: One AttentionState a layer.
  """

  position: jax.Array
  layers: tuple[AttentionState, ...]


class Performer(NamedTuple):
  """The modules of the network; `create_model` makes a LanguageModel of it.

  Attributes:
    embedding: Of the tokens and their positions.
    block: One layer; all layers are alike.
    logits: The output layer.
    dropout: Rate, on the embedding and on what each sublayer adds.
    projections: One a layer, [M, K] for random features or None.
  """

  embedding: Embedding
  block: "Block"
  logits: Logits
  dropout: float
  projections: tuple[jax.Array | None, ...]

  def init(self, key: jax.Array, state: PerformerState) -> Params:
    """Samples the parameters.

    Args:
      key: PRNG key.
      state: PerformerState of one sequence and of all layers.

    Returns:
      A dict of dicts: "embedding", "layer_0" …, "logits".
    """
    first, last, *keys = jax.random.split(key, 2 + len(state.layers))
    tokens, positions = jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    x, variables = self.embedding.init_with_output(first, tokens, positions)
    params = {"embedding": variables["params"]}
    for i, (key, one, projection) in enumerate(
      zip(keys, state.layers, self.projections, strict=True)
    ):
      variables = self.block.init(
        key, x, one, lambda a, _: a, lambda x, _: x, projection
      )
      params[f"layer_{i}"] = variables["params"]
    return params | {"logits": self.logits.init(last, x)["params"]}

  def apply(
    self,
    params: Params,
    tokens: jax.Array,
    state: PerformerState,
    keys: jax.Array | None,
    start: Callable[[PrefixSums, PrefixSums], PrefixSums],
    remat: bool,
  ) -> tuple[PerformerState, jax.Array, PerformerState]:
    """Predicts the token that follows each.

    Args:
      params: As `init` returns them.
      tokens: [B, T], int32.
      state: Its position is that of the first of the tokens; `start` tells the
        sums before the tokens from its layers.
      keys: [B], PRNG keys for dropout, or None for no dropout.
      start: See `LinearAttention`.
      remat: Whether the backward pass recomputes each layer from its input.

    Returns:
      state_before: PerformerState before the tokens.
      logits: [B, T, vocab_size], float32 or wider.
      state_after: PerformerState after the tokens.
    """
    positions = state.position + jnp.arange(tokens.shape[1])

    def drop(x, site):
      if keys is None:
        return x
      folded = jax.vmap(jax.random.fold_in, (0, None))(keys, site)
      return dropout(x, self.dropout, folded, positions)

    def layer(params, x, state, index, projection):
      def drop_added(x, sublayer):
        return drop(x, 1 + 2 * index + sublayer)

      return self.block.apply(
        {"params": params}, x, state, start, drop_added, projection
      )

    if remat:
      layer = jax.checkpoint(layer)
    x = drop(
      self.embedding.apply({"params": params["embedding"]}, tokens, positions),
      0,
    )
    before, after = [], []
    for i, (one, projection) in enumerate(
      zip(state.layers, self.projections, strict=True)
    ):
      x, one_before, one_after = layer(
        params[f"layer_{i}"], x, one, i, projection
      )
      before.append(one_before)
      after.append(one_after)
    logits = self.logits.apply({"params": params["logits"]}, x)
    end = state.position + tokens.shape[1]
    return (
      PerformerState(state.position, tuple(before)),
      logits,
      PerformerState(end, tuple(after)),
    )


class Block(nn.Module):
  """One layer: attention, then an MLP, each added to its input.

  A sublayer f is added in one of three ways: x + f(LN(x)) is "pre",
  LN(x + f(x)) "post", x + LN(f(x)) "output".
  """

  num_heads: int
  mlp_width: int
  feature_map: str
  qk_norm: bool
  norm: str
  output_projection: bool
  dtype: Any

  @nn.compact
  def __call__(self, x, state, start, drop, projection):
    """Maps x [B, T, D] to [B, T, D]; see `LinearAttention` for the others.

    `drop(x, sublayer)` drops elements of what sublayer 0 or 1 adds.
    """
    attention = LinearAttention(
      self.num_heads,
      self.feature_map,
      self.qk_norm,
      self.output_projection,
      self.dtype,
      name="attention",
    )
    mlp = MLP(self.mlp_width, self.dtype, name="mlp")

    attention_norm = LayerNorm(self.dtype, name="attention_norm")
    mlp_norm = LayerNorm(self.dtype, name="mlp_norm")
    if self.norm == "pre":
      y, before, after = attention(attention_norm(x), state, start, projection)
      x = x + drop(y, 0)
      return x + drop(mlp(mlp_norm(x)), 1), before, after
    y, before, after = attention(x, state, start, projection)
    if self.norm == "post":
      x = attention_norm(x + drop(y, 0))
      return mlp_norm(x + drop(mlp(x), 1)), before, after
    x = x + drop(attention_norm(y), 0)
    return x + drop(mlp_norm(mlp(x)), 1), before, after
