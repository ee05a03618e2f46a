"""The notation of the code base, and the typed values that travel in it.

Letters, used in every docstring and shape comment:

  B  sequences in a batch          T  tokens in a sequence
  C  tokens in a chunk             N  chunks in a sequence, N = ceil(T / C)
  H  attention heads               K  width of a query or key head
  V  width of a value head         M  features of a query or key
  D  width of the model            F  width of the MLP

A *chunk* is the unit of the backward pass; a *block* is what a kernel cuts for
itself. A *state* is all that a model remembers of the tokens it has seen.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any  # A pytree of arrays.
State = Any  # A pytree of arrays.


class Batch(NamedTuple):
  """Sequences to predict, one target for each input token."""

  inputs: jax.Array  # [B, T], int32.
  targets: jax.Array  # [B, T], int32: the token that follows each input.
  weights: jax.Array  # [B, T], float32: 1 where the loss counts, else 0.


class Sums(NamedTuple):
  """Totals over tokens. Means are formed once, at the very end."""

  nll: jax.Array  # [], float32, nats: sum of weight * -log p(target).
  correct: jax.Array  # [], float32: sum of weight where argmax = target.
  weight: jax.Array  # [], float32: sum of the weights.


class LanguageModel(NamedTuple):
  """A model as plain functions; `slim.models.create_model` builds one.

  Attributes:
    init: `init(key) -> params`.
    init_state: `init_state(batch_size, *, compensated=False, max_tokens=None)
      -> state`, the state before the first token. A compensated one carries
      the rounding error of its sums, which `rewind` needs. That of a
      Transformer has room for `max_tokens`, and grows with them; it is None
      without, for a sequence that is given whole, and nothing is remembered.
    apply: `apply(params, tokens, state, keys=None, *, remat=False) -> (logits,
      state)` for tokens [B, T]. `keys` [B] are PRNG keys, one a sequence, of
      what is random in training: dropout, and the hashes of LSH; None: nothing
      is. With `remat` the backward pass recomputes each layer.
    rewind: `rewind(params, tokens, state_after, keys=None) -> (state_before,
      logits, state_after)`: `apply`, for somebody who knows only the state
      after the tokens. None if the model cannot be undone.
    is_random: Whether `keys` change anything.
  """

  init: Callable[..., Params]
  init_state: Callable[..., State]
  apply: Callable[..., tuple[jax.Array, State]]
  rewind: Callable[..., tuple[State, jax.Array, State]] | None
  is_random: bool
