"""A language model layer by layer, whatever its mixers are.

The layers are Linen modules; the network is plain functions over them, so that
a transformation such as `jax.checkpoint` is applied from outside.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels import reversible, reversible_scan
from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.random_bits import fold_in, split
from slim.models.block import Block
from slim.models.call import Call
from slim.models.layers import Embedding, Logits, dropout
from slim.models.mixers.mixer import REPLAY, Site
from slim.models.norms import LayerNorm
from slim.models.stacking import join_layers, split_layers
from slim.types import Params, State


class Network(NamedTuple):
  """The modules of a language model.

  Attributes:
    embedding: Of the tokens and their positions.
    blocks: The layers; or, if they are stacked, those that are repeated.
    num_layers: L, a multiple of the number of blocks.
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
  num_layers: int
  is_reversible: bool
  final_norm: LayerNorm | None
  logits: Logits
  tied_output: bool
  dropout: float
  dtype: Any

  @property
  def is_stacked(self) -> bool:
    """Whether equal layers are stacked and scanned."""
    return len(self.blocks) < self.num_layers

  def init(
    self, key: jax.Array, states: Sequence[State], constants: Sequence[Any]
  ) -> Params:
    """Samples the parameters.

    Args:
      key: PRNG key.
      states: Of each layer, for one sequence.
      constants: Of each layer.

    Returns:
      A dict of dicts: "embedding", those of `join_layers`, "final_norm" if
      there is one, "logits".
    """
    first, last, *keys = split(key, 2 + self.num_layers)
    tokens, positions = jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    x, variables = self.embedding.init_with_output(first, tokens, positions)
    layers = []
    for i, key in enumerate(keys):
      site = Site(jnp.int32(0), constants[i], None, False, None)
      block = self.blocks[i % len(self.blocks)]
      variables_of_layer = block.init(key, x, states[i], site, lambda y, _: y)
      layers.append(variables_of_layer["params"])
    params = {"embedding": variables["params"]}
    params |= join_layers(layers, len(self.blocks))
    if self.final_norm is not None:
      params["final_norm"] = self.final_norm.init(key, x)["params"]
    variables = self.logits.init(last, x, self._table(params))
    return params | {"logits": variables["params"]}

  def apply(
    self,
    params: Params,
    tokens: jax.Array,
    states: Sequence[State],
    constants: Sequence[Any],
    call: Call,
  ) -> tuple[jax.Array, Sequence[State], Sequence[State]]:
    """Predicts the token that follows each.

    Args:
      params: As `init` returns them.
      tokens: [B, T], int32.
      states: Of each block; if layers are stacked, with an axis of repeats.
      constants: Likewise.
      call: What all layers share.

    Returns:
      logits: [B, T, vocab_size], float32 or wider.
      before: The states before the tokens, as `states`.
      after: The states after them.

    Raises:
      ValueError: If `remat` is asked of reversible layers.
    """
    positions = call.positions(tokens.shape[1])
    if call.sequence_axis is not None and self.embedding.is_bounded:
      # Padding at the end of a sequence has no positions of its own.
      positions = jnp.minimum(positions, self.embedding.max_positions - 1)

    def drop(x, index):
      if call.keys is None:
        return x
      keys = fold_in(call.keys, index)
      return dropout(x, self.dropout, keys, positions)

    x = self.embedding.apply(
      {"params": params["embedding"]},
      tokens,
      positions if call.document_positions is None else call.document_positions,
    )
    x = drop(x, 0)
    layers = split_layers(params, len(self.blocks), self.is_stacked)
    if self.is_reversible:
      if call.remat:
        raise ValueError(
          "remat must be False for reversible layers, which keep no activations"
        )
      run = self._on_two_streams
    else:
      run = self._on_one_stream
    x, before, after = run(layers, x, states, constants, call, drop)
    if self.final_norm is not None:
      x = self.final_norm.apply({"params": params["final_norm"]}, x)
    variables = {"params": params["logits"]}
    logits: Any = self.logits.apply(variables, x, self._table(params))
    return logits, before, after

  def _site(self, call, layer, constants, is_random, replay):
    """Where the mixer of a layer is called; `layer` is its number."""
    # Dropout has the numbers from 0 to 2 L.
    counter = 1 + 2 * self.num_layers + layer if is_random else None
    return call.site(constants, counter, replay)

  def _on_one_stream(self, layers, x, states, constants, call, drop):
    """Adds the sublayers to one stream."""

    def apply_block(block, params, x, state, constants, layer):
      site = self._site(call, layer, constants, block.attention.is_random, None)
      return block.apply(
        {"params": params},
        x,
        state,
        site,
        lambda y, sublayer: drop(y, 1 + 2 * layer + sublayer),
      )

    def apply_blocks(x, arrays, first_layer):
      before, after = [], []
      for j, (block, *of_block) in enumerate(
        zip(self.blocks, *arrays, strict=True)
      ):

        def run(params, x, state, constants, block=block, j=j):
          layer = first_layer + j
          return apply_block(block, params, x, state, constants, layer)

        if call.remat:
          run = jax.checkpoint(
            run,
            # A scan hides its body from common subexpression elimination.
            prevent_cse=not self.is_stacked,
            policy=jax.checkpoint_policies.save_only_these_names(REPLAY),
          )
        params, state, constant = of_block
        x, *found = run(params, x, state, constant)
        before.append(found[0])
        after.append(found[1])
      return x, (tuple(before), tuple(after))

    arrays = layers, states, constants
    if not self.is_stacked:
      x, (before, after) = apply_blocks(x, arrays, 0)
    else:
      x, (before, after) = jax.lax.scan(
        lambda x, of_turn: apply_blocks(x, *of_turn),
        x,
        (arrays, self._first_layers()),
      )
    return x, before, after

  def _on_two_streams(self, layers, x, states, constants, call, drop):
    """Adds each sublayer of one stream to the other."""

    def make_sublayers(block: Block) -> list[Callable[..., Any]]:
      def mix(params, x, context, replay):
        state, constants, layer = context
        site = self._site(
          call, layer, constants, block.attention.is_random, replay
        )
        mixed = block.apply(
          {"params": params}, x.astype(self.dtype), state, site, method="mix"
        )
        y = drop(mixed.y, 1 + 2 * layer)
        return y, (mixed.before, mixed.after), mixed.replay

      def feed(params, x, layer, replay):
        del replay
        x = x.astype(self.dtype)
        y = block.apply({"params": params}, x, method="feed")
        return drop(y, 2 + 2 * layer), (), ()

      return [mix, feed]

    numbers = list(range(self.num_layers))
    if self.is_stacked:
      numbers = [self._first_layers() + j for j in range(len(self.blocks))]
    sublayers, params, contexts = [], [], []
    for block, of_block, *context in zip(
      self.blocks, layers, states, constants, numbers, strict=True
    ):
      sublayers += make_sublayers(block)
      for name in ("attention", "mlp"):
        params.append({k: of_block[k] for k in (name, f"{name}_norm")})
      contexts += [tuple(context), context[-1]]
    x = x.astype(at_least_float32(self.dtype))
    apply = reversible_scan if self.is_stacked else reversible
    (one, two), outs = apply(sublayers, params, (x, x), contexts)
    before, after = zip(*outs[::2], strict=True)
    return ((one + two) / 2).astype(self.dtype), before, after

  def _first_layers(self):
    """The number of the first layer of each turn of the scan."""
    return jnp.arange(0, self.num_layers, len(self.blocks), dtype=jnp.int32)

  def _table(self, params):
    return params["embedding"]["table"] if self.tied_output else None
