"""A language model of any list of layers, as plain functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.random_bits import check_keys
from slim.models.call import Call
from slim.models.network import Network
from slim.models.sequence_axis import SequenceAxis
from slim.types import (
  LanguageModel,
  Params,
  State,
  StateKind,
  TokenOrder,
  exportable,
)


@exportable
class ModelState(NamedTuple):
  """What the model remembers of the tokens so far.

  Attributes:
    position: [], int32, number of tokens so far.
    layers: The state of each layer. If equal layers are stacked, their states
      are, too.
  """

  position: jax.Array
  layers: tuple[State, ...]


def make_language_model(
  network: Network,
  frozen_keys: list[jax.Array] | None,
  max_tokens: int | None,
  token_order: TokenOrder | None,
  axis: SequenceAxis | None = None,
  *,
  packed: bool = False,
) -> LanguageModel:
  """Makes a language model of a network.

  Args:
    network: The modules.
    frozen_keys: One PRNG key a layer, for mixers with random constants; None if
      there are none.
    max_tokens: Tokens that the network has positions for; None: any number.
    token_order: In which devices can share the tokens of a sequence, or None.
    axis: The mesh axis whose devices share the tokens of a sequence,
      in `jax.shard_map`; None: each has all.
    packed: Whether a sequence may have several documents.

  Returns:
    LanguageModel.
  """
  mixers = [block.attention for block in network.blocks]
  num_blocks = len(mixers)
  constants = _make_constants(network, frozen_keys)
  # The start of a document resets a state of one size. That cannot be undone.
  resets = [packed and mixer.state_kind == "fixed" for mixer in mixers]

  def init_layers(batch_size, compensated=False, max_tokens=None):
    states = [
      mixer.init_state(
        batch_size,
        compensated=compensated and not is_reset,
        max_tokens=max_tokens,
      )
      for mixer, is_reset in zip(mixers, resets, strict=True)
    ]
    return tuple(states)

  def stacked(states):
    if not network.is_stacked:
      return states
    repeats = network.num_layers // num_blocks
    return jax.tree.map(
      lambda x: jnp.broadcast_to(x, (repeats, *x.shape)), states
    )

  def init(key: jax.Array) -> Params:
    states = init_layers(1) * (network.num_layers // num_blocks)
    return network.init(key, states, constants)

  def init_state(
    batch_size: int,
    *,
    compensated: bool = False,
    max_tokens: int | None = None,
  ) -> ModelState | None:
    layers = init_layers(batch_size, compensated, max_tokens)
    if any(layer is None for layer in layers):
      return None
    return ModelState(jnp.int32(0), stacked(layers))

  constants_of_blocks = _of_blocks(network, constants)

  def start_state(
    params: Params,
    tokens: jax.Array,
    state: ModelState | None,
    keys: jax.Array | None = None,
  ) -> ModelState | None:
    if state is None or axis is None:
      return state
    # Each device runs the first token, and needs no other to know its states.
    first = axis.of_first_device(tokens[:, :1])
    call = Call(state.position, keys, rewind=False, remat=False)
    *_, after = network.apply(
      jax.lax.stop_gradient(params),
      first,
      state.layers,
      constants_of_blocks,
      call,
    )
    layers = [
      mixer.start_state(*states)
      for mixer, *states in zip(mixers, state.layers, after, strict=True)
    ]
    return state._replace(layers=tuple(layers))

  def count_tokens(tokens):
    return tokens.shape[1] * (1 if axis is None else axis.size)

  def run(params, tokens, state, call):
    if call.keys is not None:
      check_keys("keys", call.keys, tokens.shape[:1])
    logits, before, after = network.apply(
      params, tokens, state.layers, constants_of_blocks, call
    )
    end = call.position + count_tokens(tokens)
    return (
      ModelState(call.position, tuple(before)),
      logits,
      ModelState(end, tuple(after)),
    )

  def apply(
    params: Params,
    tokens: jax.Array,
    state: ModelState | None,
    keys: jax.Array | None = None,
    *,
    remat: bool = False,
    positions: jax.Array | None = None,
  ) -> tuple[jax.Array, ModelState | None]:
    start = state
    if start is None:
      layers = stacked(init_layers(tokens.shape[0]))
      start = ModelState(jnp.int32(0), layers)
    documents = _in_documents(start.position, tokens, positions, packed)
    call = Call(start.position, keys, False, remat, axis, documents)
    _, logits, after = run(params, tokens, start, call)
    return logits, None if state is None else after

  def rewind(
    params: Params,
    tokens: jax.Array,
    state_after: ModelState,
    keys: jax.Array | None = None,
    *,
    positions: jax.Array | None = None,
  ) -> tuple[ModelState, jax.Array, ModelState]:
    position = state_after.position - count_tokens(tokens)
    documents = _in_documents(position, tokens, positions, packed)
    call = Call(position, keys, True, False, axis, documents)
    return run(params, tokens, state_after, call)

  state_kind = _state_kind(mixers)
  kept = tuple(
    is_reset or mixer.kept
    for mixer, is_reset in zip(mixers, resets, strict=True)
  )
  return LanguageModel(
    init,
    init_state,
    apply,
    None if state_kind == "none" else rewind,
    kept=ModelState(False, kept),  # type: ignore[arg-type]
    state_kind=state_kind,
    is_random=network.dropout > 0 or any(mixer.is_random for mixer in mixers),
    max_tokens=max_tokens,
    token_order=token_order,
    start_state=None if axis is None else start_state,
  )


def _in_documents(position, tokens, positions, packed):
  """Computes `Call.document_positions`.

  A sequence may begin inside a document. Positions in that document count from
  the first token of the sequence.
  """
  if not packed:
    if positions is not None:
      raise ValueError(
        "positions must be None for a model that was created without packed, "
        f"got {positions.dtype}{list(positions.shape)}"
      )
    return None
  in_sequence = position + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
  if positions is None:
    return jnp.broadcast_to(in_sequence, tokens.shape)
  return jnp.minimum(positions, in_sequence)


def _state_kind(mixers: list[Any]) -> StateKind:
  """The kind of the whole state: "none" if any layer remembers nothing."""
  kinds = {mixer.state_kind for mixer in mixers}
  if "none" in kinds:
    return "none"
  return "growing" if "growing" in kinds else "fixed"


def _make_constants(network, frozen_keys):
  """The constants of each layer, or None."""
  constants = []
  for i in range(network.num_layers):
    mixer = network.blocks[i % len(network.blocks)].attention
    constant = None
    if mixer.needs_frozen_key:
      constant = mixer.init_constants(frozen_keys[i])
    constants.append(constant)
  return constants


def _of_blocks(network, constants):
  """The constants of each block, stacked if layers are."""
  if not network.is_stacked:
    return tuple(constants)
  num_blocks = len(network.blocks)
  return tuple(
    jax.tree.map(lambda *x: jnp.stack(x), *constants[j::num_blocks])
    for j in range(num_blocks)
  )
