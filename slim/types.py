"""The notation of the code base, and the typed values that travel in it.

Letters, used in every docstring and shape comment:

  B  sequences in a batch          T  tokens in a sequence
  C  tokens in a chunk             N  chunks in a sequence, N = ceil(T / C)
  H  attention heads               K  width of a query or key head
  V  width of a value head         M  features of a query or key
  D  width of the model            F  work of a forward pass
  S  keys, if not T                G  key heads, if not H; G divides H
  R  rounds of LSH

A *chunk* is the unit of the backward pass; a *block* is what a kernel cuts for
itself. A *state* is all that a model remembers of the tokens it has seen.
"""

from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax
from jax import export

Params = Any  # A pytree of arrays.
State = Any  # A pytree of arrays.
StateKind = Literal["none", "fixed", "growing"]
TokenOrder = Literal["chunk", "zigzag"]
_Tuple = TypeVar("_Tuple")


def exportable(cls: type[_Tuple]) -> type[_Tuple]:
  """Lets `jax.export` serialize functions that take or return a NamedTuple."""
  export.register_namedtuple_serialization(
    cls, serialized_name=f"slim.{cls.__name__}"
  )
  return cls


@exportable
class Batch(NamedTuple):
  """Sequences to predict, one target for each input token."""

  inputs: jax.Array  # [B, T], int32.
  targets: jax.Array  # [B, T], int32: the token that follows each input.
  weights: jax.Array  # [B, T], float32: 1 where the loss counts, else 0.
  # [B, T], int32: the position of each input in its document. None: a sequence
  # is one document.
  positions: jax.Array | None = None


@exportable
class Sums(NamedTuple):
  """Totals over tokens. Means are formed once, at the very end."""

  nll: jax.Array  # [], float32, nats: sum of weight * -log p(target).
  correct: jax.Array  # [], float32: sum of weight where argmax = target.
  weight: jax.Array  # [], float32: sum of the weights.


class InitFn(Protocol):
  """Samples the parameters of a model."""

  def __call__(self, key: jax.Array) -> Params: ...  # noqa: D102


class InitStateFn(Protocol):
  """Makes the state before the first token."""

  def __call__(  # noqa: D102
    self,
    batch_size: int,
    *,
    compensated: bool = False,
    max_tokens: int | None = None,
  ) -> State | None: ...


class StartStateFn(Protocol):
  """Completes the initial state with what depends on the first token."""

  def __call__(  # noqa: D102
    self,
    params: Params,
    tokens: jax.Array,
    state: State | None,
    keys: jax.Array | None = None,
  ) -> State | None: ...


class ApplyFn(Protocol):
  """Predicts the token that follows each."""

  def __call__(  # noqa: D102
    self,
    params: Params,
    tokens: jax.Array,
    state: State | None,
    keys: jax.Array | None = None,
    *,
    remat: bool = False,
    positions: jax.Array | None = None,
  ) -> tuple[jax.Array, State | None]: ...


class RewindFn(Protocol):
  """Like `ApplyFn`, but starts from the state after the tokens.

  Leaves that are `LanguageModel.kept` are given as they were before the tokens.
  """

  def __call__(  # noqa: D102
    self,
    params: Params,
    tokens: jax.Array,
    state_after: State,
    keys: jax.Array | None = None,
    *,
    positions: jax.Array | None = None,
  ) -> tuple[State, jax.Array, State]: ...


@exportable
class TrainState(NamedTuple):
  """Everything that changes during training, and that a checkpoint holds."""

  step: jax.Array  # [], int32: updates done so far.
  params: Params
  opt_state: Any  # The state of an `optax.GradientTransformation`.


class LanguageModel(NamedTuple):
  """A model as plain functions; `slim.models.create_model` builds one.

  Attributes:
    init: `init(key) -> params`.
    init_state: `init_state(batch_size, *, compensated=False, max_tokens=None)
      -> state`, the state before the first token. A compensated state carries
      the rounding error of its sums, which `rewind` needs. A growing state has
      room for `max_tokens`. Without `max_tokens` it is None: the sequence must
      be given whole, and nothing is remembered.
    apply: `apply(params, tokens, state, keys=None, *, remat=False,
      positions=None) -> (logits, state)` for tokens [B, T]. With the state None
      the sequence starts here, and None is returned. `keys` [B] are PRNG keys,
      one for each sequence, for what is random in training: dropout, and the
      hashes of LSH; None: nothing is random. With `remat` the backward pass
      recomputes each layer. `positions` are those of a `Batch`.
    rewind: `rewind(params, tokens, state_after, keys=None, *, positions=None)
      -> (state_before, logits, state_after)`. Like `apply`, but starts from the
      state after the tokens. Leaves of the state that are `kept` must be given
      as they were before the tokens. None without a state.
    state_kind: "fixed", a state of one size whatever the number of tokens;
      "growing", a state with room for a number of tokens; "none", no state.
    is_random: Whether `keys` change anything.
    max_tokens: Tokens that the model has positions for; None: any number.
    token_order: In which order several devices can share the tokens of a
      sequence: "chunk" or "zigzag", see `slim.kernels.chunk_order` and
      `zigzag_order`; None: all tokens must be on one device.
    start_state: `start_state(params, tokens, state, keys=None) -> state`. It
      completes the initial state with values that depend on the first token,
      which only one device has if several share a sequence. None: none do.
    kept: Which leaves of the state cannot be computed from those after some
      tokens: a pytree of booleans, the structure of the state or a prefix.
  """

  init: InitFn
  init_state: InitStateFn
  apply: ApplyFn
  rewind: RewindFn | None
  state_kind: StateKind
  is_random: bool
  max_tokens: int | None = None
  token_order: TokenOrder | None = None
  start_state: StartStateFn | None = None
  kept: Any = False
