"""The contract of a mixer: what a layer needs of whatever mixes its tokens.

A mixer is a Linen module from x [B, T, D] to y [B, T, D] with a state, which is
all that it remembers of the tokens before. The rest of slim asks a mixer for
`state_kind` and `can_rewind`, never for its name.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
from flax import linen as nn

from slim.models.layers import dense, dense_heads
from slim.models.norms import normalize_heads
from slim.models.positions import rotate
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
    rewind: Whether the state is the one after the tokens, so that the mixer
      has to compute the one before them.
    replay: Pytree of integers that the mixer returned when it computed these
      tokens before, and must act by; None the first time.
    sequence_axis: The mesh axis whose devices share these tokens, x has those
      of one device, and `position` is that of the first of all; None: x has
      all tokens.
  """

  position: jax.Array
  constants: Any
  keys: jax.Array | None
  rewind: bool
  replay: Any
  sequence_axis: SequenceAxis | None = None

  def positions(self, num_tokens: int) -> jax.Array:
    """Returns the positions [T], int32, of the T tokens in x."""
    return token_positions(self.position, num_tokens, self.sequence_axis)


class Mixed(NamedTuple):
  """What a mixer returns.

  Attributes:
    y: [B, T, D], to be added to the input.
    before: The state before the tokens.
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
    can_rewind: Whether the state before some tokens follows from the one after
      them.
    is_random: Whether `Site.keys` change the output.
    needs_frozen_key: Whether `init_constants` draws random numbers.
    token_order: In which order the devices of a `SequenceAxis` share the
      tokens; None: it needs all tokens on one device.
  """

  @property
  def state_kind(self) -> StateKind: ...  # noqa: D102
  @property
  def can_rewind(self) -> bool: ...  # noqa: D102
  @property
  def is_random(self) -> bool: ...  # noqa: D102
  @property
  def needs_frozen_key(self) -> bool: ...  # noqa: D102
  @property
  def token_order(self) -> TokenOrder | None: ...  # noqa: D102

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


class MultiHead(nn.Module):
  """What the mixers with attention heads share.

  Attributes:
    width: D.
    num_heads: H; divides the width.
    qk_norm: Whether queries and keys are scaled to length K^¼, the queries then
      by a learned factor for each dimension of a head. (A factor on the keys
      would do to q · k what one on the queries does, and have no bound.)
    output_projection: Whether a linear map follows the heads.
    dtype: Of the computation; sums are formed in float32 or wider.
  """

  width: int
  num_heads: int
  qk_norm: bool
  output_projection: bool
  dtype: Any

  # Mixers that do, or can, override these.
  is_random = False
  token_order: ClassVar[TokenOrder | None] = None

  @property
  def needs_frozen_key(self) -> bool:
    """Whether there are random constants: there are none."""
    return False

  @nn.nowrap
  def init_constants(self, key: jax.Array) -> Any:
    """Makes the constants of a layer; see `Mixer`."""
    del key

  @nn.nowrap
  def start_state(self, state: State, after_first: State) -> State:
    """Returns the state: the first token decides nothing."""
    del after_first
    return state

  @property
  def head_dim(self) -> int:
    """K = V = D / H."""
    return self.width // self.num_heads

  def project(
    self, x: jax.Array, positions: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes q, k and v, [B, T, H, K] each, with biases.

    Called within a compact method, it adds the layers to that module.

    Args:
      x: [B, T, D].
      positions: [T], int32, if queries and keys are rotated by them.

    Returns:
      q, k, v. Queries and keys may be wider than `dtype`.
    """
    q, k, v = (
      dense_heads(x, self.num_heads, self.dtype, name)
      for name in ("q", "k", "v")
    )
    if self.qk_norm:
      q = normalize_heads(q, "q_norm", use_scale=True)
      k = normalize_heads(k, "k_norm", use_scale=False)
    if positions is not None:
      q, k = rotate(q, positions), rotate(k, positions)
    return q, k, v

  def merge(self, y: jax.Array) -> jax.Array:
    """Joins the heads [B, T, H, V] to [B, T, D]; called as `project`."""
    y = y.reshape(*y.shape[:2], self.width)
    if self.output_projection:
      y = dense(y, self.width, self.dtype, "out")
    return y


def multi_head_arguments(settings: ModelSettings) -> dict[str, Any]:
  """The attributes of `MultiHead` for a model."""
  return {
    "width": settings.width,
    "num_heads": settings.num_heads,
    "qk_norm": settings.qk_norm,
    "output_projection": settings.output_projection,
    "dtype": jax.numpy.dtype(settings.dtype),
  }
