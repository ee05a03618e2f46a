"""A language model layer by layer, whatever its attention is.

The layers are Linen modules; the network is plain functions over them, so that
a transformation such as `jax.checkpoint` is applied from outside.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels import reversible
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.random_bits import (
  fold_in,
  split,
)
from slim.models.block import Block
from slim.models.layers import Embedding, Logits, dropout
from slim.models.norms import LayerNorm
from slim.types import Params


class Network(NamedTuple):
  """The modules of a language model; `create_model` makes a model of it.

  Attributes:
    embedding: Of the tokens and their positions.
    blocks: The layers.
    is_reversible: Whether the layers are on two streams, which both start as
      the embedding and end as their mean; see `slim.kernels.reversible`.
    final_norm: Of what the last layer returns, or None.
    logits: The output layer.
    tied_output: Whether the output layer is the embedding's table.
    dropout: Rate, on the embedding and on what each sublayer adds.
    dtype: Of the computation.
  """

  embedding: Embedding
  blocks: tuple[Block, ...]
  is_reversible: bool
  final_norm: LayerNorm | None
  logits: Logits
  tied_output: bool
  dropout: float
  dtype: Any

  def init(self, key: jax.Array, contexts: list[Any], *static: Any) -> Params:
    """Samples the parameters.

    Args:
      key: PRNG key.
      contexts: As of `apply`, of one sequence.
      *static: As of `apply`.

    Returns:
      A dict of dicts: "embedding", "layer_0" …, "final_norm" if there is one,
      "logits".
    """
    first, last, *keys = split(key, 2 + len(self.blocks))
    tokens, positions = jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    x, variables = self.embedding.init_with_output(first, tokens, positions)
    params = {"embedding": variables["params"]}
    for i, (block, key, context) in enumerate(
      zip(self.blocks, keys, contexts, strict=True)
    ):
      variables = block.init(key, x, lambda x, _: x, context, *static)
      params[f"layer_{i}"] = variables["params"]
    if self.final_norm is not None:
      params["final_norm"] = self.final_norm.init(key, x)["params"]
    variables = self.logits.init(last, x, self._table(params))
    return params | {"logits": variables["params"]}

  def apply(
    self,
    params: Params,
    tokens: jax.Array,
    position: jax.Array,
    keys: jax.Array | None,
    contexts: list[Any],
    *static: Any,
    remat: bool,
  ) -> tuple[jax.Array, list[Any]]:
    """Predicts the token that follows each.

    Args:
      params: As `init` returns them.
      tokens: [B, T], int32.
      position: [], int32, of the first of the tokens.
      keys: [B], PRNG keys for dropout, or None for no dropout.
      contexts: A pytree of arrays for each layer: what its attention takes
        besides x.
      *static: What the attention of each layer takes last; no arrays.
      remat: Whether the backward pass recomputes each layer from its input.

    Returns:
      logits: [B, T, vocab_size], float32 or wider.
      states: What the attention of each layer returns as its state.

    Raises:
      ValueError: If `remat` is asked of reversible layers.
    """
    positions = position + jnp.arange(tokens.shape[1])

    def drop(x, site):
      if keys is None:
        return x
      return dropout(x, self.dropout, fold_in(keys, site), positions)

    x = self.embedding.apply({"params": params["embedding"]}, tokens, positions)
    x = drop(x, 0)
    if self.is_reversible:
      if remat:
        raise ValueError(
          "remat must be False for reversible layers, which keep no activations"
        )
      x, states = self._on_two_streams(params, x, drop, contexts, static)
    else:
      x, states = self._on_one(params, x, drop, contexts, static, remat)
    if self.final_norm is not None:
      x = self.final_norm.apply({"params": params["final_norm"]}, x)
    table = self._table(params)
    return self.logits.apply({"params": params["logits"]}, x, table), states

  def _on_one(self, params, x, drop, contexts, static, remat):
    """Adds the sublayers to one stream."""
    states = []
    for i, (block, context) in enumerate(
      zip(self.blocks, contexts, strict=True)
    ):

      def layer(params, x, context, i=i, block=block):
        def drop_added(x, sublayer):
          return drop(x, 1 + 2 * i + sublayer)

        return block.apply({"params": params}, x, drop_added, context, *static)

      layer = jax.checkpoint(layer) if remat else layer
      x, state = layer(params[f"layer_{i}"], x, context)
      states.append(state)
    return x, states

  def _on_two_streams(self, params, x, drop, contexts, static):
    """Adds each sublayer of one stream to the other."""
    sublayers, its_params = [], []
    for i, block in enumerate(self.blocks):

      def attend(params, x, context, replay, i=i, block=block):
        y, state, replay = block.apply(
          {"params": params},
          x.astype(self.dtype),
          context,
          replay,
          *static,
          method="attend",
        )
        return drop(y, 1 + 2 * i), state, replay

      def feed(params, x, context, replay, i=i, block=block):
        del context, replay
        x = x.astype(self.dtype)
        y = block.apply({"params": params}, x, method="feed")
        return drop(y, 2 + 2 * i), (), ()

      sublayers += [attend, feed]
      for name in ("attention", "mlp"):
        of_layer = params[f"layer_{i}"]
        its_params.append({k: of_layer[k] for k in (name, f"{name}_norm")})
    x = x.astype(at_least_float32(self.dtype))
    (one, two), outs = reversible(
      sublayers,
      its_params,
      (x, x),
      [c for context in contexts for c in (context, ())],
    )
    return ((one + two) / 2).astype(self.dtype), outs[::2]

  def _table(self, params):
    return params["embedding"]["table"] if self.tied_output else None
