"""The Performer: a language model of linear attention, which can be undone."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels import rewind_prefix_sums
from slim.kernels.support.dtypes import at_least_float32
from slim.models.mixers.linear import (
  AttentionState,
  init_attention_state,
)
from slim.models.network import Network
from slim.types import LanguageModel


class PerformerState(NamedTuple):
  """All that the model remembers of the tokens so far.

  Attributes:
    position: [], int32: how many tokens there were.
    layers: One AttentionState a layer.
  """

  position: jax.Array
  layers: tuple[AttentionState, ...]


def create_performer(
  network: Network,
  *,
  num_heads: int,
  num_features: int,
  head_dim: int,
  projections: list[jax.Array | None],
  can_rewind: bool,
) -> LanguageModel:
  """Makes a language model of a network of `LinearAttention`.

  Args:
    network: The modules.
    num_heads: H.
    num_features: M.
    head_dim: K = V.
    projections: One a layer, [M, K] for random features or None.
    can_rewind: Whether its sums can be undone.

  Returns:
    LanguageModel, whose state has one size whatever the number of tokens.
  """

  def init_state(batch_size, *, compensated=False, max_tokens=None):
    del max_tokens  # The sums of any number are as large.
    make = partial(
      init_attention_state,
      batch_size,
      num_heads,
      num_features,
      head_dim,
      dtype=at_least_float32(network.dtype),
      compensated=compensated,
    )
    return PerformerState(jnp.int32(0), tuple(make() for _ in projections))

  def contexts(state):
    return list(zip(state.layers, projections, strict=True))

  def init(key):
    return network.init(key, contexts(init_state(1)), _keep)

  def run(params, tokens, state, keys, start, remat=False):
    logits, states = network.apply(
      params, tokens, state.position, keys, contexts(state), start, remat=remat
    )
    before, after = zip(*states, strict=True)
    end = state.position + tokens.shape[1]
    return (
      PerformerState(state.position, before),
      logits,
      PerformerState(end, after),
    )

  def apply(params, tokens, state, keys=None, *, remat=False):
    return run(params, tokens, state, keys, _keep, remat)[1:]

  def rewind(params, tokens, state_after, keys=None):
    position = state_after.position - tokens.shape[1]
    state = state_after._replace(position=position)
    return run(params, tokens, state, keys, rewind_prefix_sums)

  return LanguageModel(
    init,
    init_state,
    apply,
    rewind if can_rewind else None,
    is_random=network.dropout > 0,
  )


def _keep(state, update):
  """The `start` of a walk forward: the sums are those before the tokens."""
  del update
  return state
