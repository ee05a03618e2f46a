"""The contract of a mixer: what a layer needs of whatever mixes its tokens.

A mixer is a Linen module from x [B, T, D] to y [B, T, D] with a state, which is
all that it remembers of the tokens before. The rest of slim asks a mixer for
`state_kind` and `kept`, never for its name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from slim.models.sequence_axis import SequenceAxis, token_positions
from slim.models.settings import ModelSettings
from slim.types import State, StateKind, TokenOrder


class Site(NamedTuple):
  """Where and how a mixer is called, besides its input and its state.

  Attributes:
    position: [], int32, position of the first token in the sequence.
    constants: What `Mixer.init_constants` returned for this layer, or None.
    keys: [B], PRNG keys of this layer, one a sequence; None where nothing is
      random.
    rewind: Whether leaves of the state that are not `Mixer.kept` are those
      after the tokens, so that the mixer has to compute those before them.
    replay: Pytree of integers that the mixer returned in the forward pass. A
      recomputation must use them instead of deciding again. None in the
      forward pass.
    sequence_axis: The mesh axis whose devices share the tokens of a sequence.
      x then has the tokens of one device, and `position` is that of the first
      token of all devices. None: x has all tokens.
    document_positions: [B, T], int32, the position of each token in its
      document, where a sequence has several; None: it is one document.
  """

  position: jax.Array
  constants: Any
  keys: jax.Array | None
  rewind: bool
  replay: Any
  sequence_axis: SequenceAxis | None = None
  document_positions: jax.Array | None = None

  def positions(self, num_tokens: int) -> jax.Array:
    """Returns the positions, int32, of the T tokens in x.

    Args:
      num_tokens: T.

    Returns:
      [T], in the sequence; or [B, T], in the documents.
    """
    if self.document_positions is not None:
      return self.document_positions
    return token_positions(self.position, num_tokens, self.sequence_axis)

  def reset(self, log_decay: jax.Array) -> jax.Array:
    """Sets a log decay [B, T, …] to -inf where a document starts."""
    positions = self.document_positions
    if positions is None:
      return log_decay
    shape = *positions.shape, *[1] * (log_decay.ndim - 2)
    return jnp.where(positions.reshape(shape) == 0, -jnp.inf, log_decay)

  def document_mask(
    self, first_key: jax.Array | int
  ) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Makes a `mask_fn` that hides the keys of earlier documents.

    Args:
      first_key: [], the index of the key that the first token of x has.

    Returns:
      The mask of softmax attention, or None for sequences of one document.
    """
    positions = self.document_positions
    if positions is None:
      return None
    tokens = jnp.arange(positions.shape[1], dtype=jnp.int32)
    starts = first_key + tokens[None] - positions  # Keys of first tokens.

    def mask_fn(q_index, k_index):
      of_queries = starts[:, None, q_index[:, 0], None]
      return k_index[None, None] >= of_queries

    return mask_fn


# Mixers give what must not be computed again this name, by `checkpoint_name`:
# `jax.checkpoint` keeps it.
REPLAY = "replay"


class Mixed(NamedTuple):
  """What a mixer returns.

  Attributes:
    y: [B, T, D], to be added to the input.
    before: The state before the tokens. Rows of a growing state that no token
      has been written to may hold anything finite.
    after: The state after them, of the same structure.
    replay: Pytree of integers that must be the same if this is recomputed,
      such as the buckets of a hash; () if there is none.
  """

  y: jax.Array
  before: State
  after: State
  replay: Any


class Mixer(Protocol):
  """A Linen module that mixes tokens.

  Attributes:
    state_kind: "fixed", a state of one size whatever the number of tokens;
      "growing", a state with room for a number of tokens; "none", no state:
      the sequence must be given whole.
    kept: Which leaves of the state cannot be computed from those after some
      tokens: a pytree of booleans, the structure of the state or a prefix of
      it. Gradients over chunks store them before each chunk.
    is_random: Whether `Site.keys` change the output.
    needs_frozen_key: Whether `init_constants` draws random numbers.
    token_order: In which order the devices of a `SequenceAxis` share the
      tokens; None: it needs all tokens on one device.
    has_documents: Whether it keeps the documents of `Site.document_positions`
      apart. All leaves of a "fixed" state are then given as they were before
      the tokens, even if `rewind`, because a reset at the start of a document
      cannot be undone.
  """

  @property
  def state_kind(self) -> StateKind: ...  # noqa: D102
  @property
  def kept(self) -> Any: ...  # noqa: D102
  @property
  def is_random(self) -> bool: ...  # noqa: D102
  @property
  def needs_frozen_key(self) -> bool: ...  # noqa: D102
  @property
  def token_order(self) -> TokenOrder | None: ...  # noqa: D102
  @property
  def has_documents(self) -> bool: ...  # noqa: D102

  def init_constants(self, key: jax.Array) -> Any:
    """Makes arrays that are no parameters, such as random projections.

    Only called if `needs_frozen_key`.

    Args:
      key: PRNG key. An equal key makes an equal model.

    Returns:
      Pytree of arrays.
    """
    ...

  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> State | None:
    """Makes the state before the first token.

    Args:
      batch_size: B.
      compensated: Whether sums carry their rounding error, which rewinding
        needs.
      max_tokens: Tokens that a growing state must have room for, or None.

    Returns:
      The state; None if nothing can be remembered, as for a growing state
      without `max_tokens`.
    """
    ...

  def start_state(self, state: State, after_first: State) -> State:
    """Adds to the state before the first token what that token decides.

    Only called if there is a `token_order`: one device alone has that token.

    Args:
      state: As `init_state` makes it.
      after_first: The state after the first token.

    Returns:
      The state before it, equal on all devices.
    """
    ...

  def __call__(self, x: jax.Array, state: Any, site: Site) -> Mixed:
    """Mixes the tokens x [B, T, D]."""
    ...


class MixerKind(NamedTuple):
  """An entry of the registry of mixers.

  Attributes:
    settings: Dataclass of the settings that this mixer alone has, declared by
      `slim.settings.setting`.
    create: `create(model_settings, own_settings)` makes the module of a layer.
      It raises SettingError if settings do not fit.
  """

  settings: type
  create: Callable[[ModelSettings, Any], Mixer]
