"""Linear attention: a state of one size, whose sums can be undone."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import (
  FEATURE_MAPS,
  PrefixSums,
  add_sums,
  chunked_gated_linear_attention,
  chunked_linear_attention,
  exchange_sums,
  init_prefix_sums,
  positive_random_features,
  positive_random_query_features,
  rewind_prefix_sums,
  sample_projection,
  token_sums,
)
from slim.kernels.linear.attention import normalise
from slim.kernels.support.dtypes import at_least_float32
from slim.models.mixers.mixer import Mixed, Site
from slim.models.mixers.multi_head import MultiHead, multi_head_arguments
from slim.models.settings import ModelSettings
from slim.settings import SettingError, check_settings, setting
from slim.types import StateKind, TokenOrder, exportable


@dataclasses.dataclass(frozen=True)
class LinearSettings:
  """Settings of linear attention alone."""

  feature_map: str = setting(
    "square",
    "Features of queries and keys. 'favor': random features, drawn once from "
    "the seed, which approximate softmax attention.",
    choices=(*FEATURE_MAPS, "favor"),
  )
  num_features: int | None = setting(
    None, "M, features of a head, for 'favor' alone. None: the head's width."
  )
  orthogonal_features: bool = setting(
    True, "For 'favor': draw orthogonal features, which have less variance."
  )

  def check(self) -> None:
    """Raises SettingError if a setting cannot work, alone or with another."""
    check_settings(self)
    if self.num_features is not None and self.feature_map != "favor":
      raise SettingError(
        "num_features",
        f"must be None for feature_map={self.feature_map!r}, whose features "
        f"are as many as a head is wide, got {self.num_features}",
      )


@exportable
class LinearState(NamedTuple):
  """What a layer of linear attention remembers of the tokens so far.

  Attributes:
    sums: PrefixSums of the values less `value_offset`.
    value_offset: [B, H, V], the value of the first token. Attention weights sum
      to 1, so values may be measured from anywhere. The gradient of a query is
      a difference, Σ_s k_s (v_s - y), in which a part that all values share
      would leave its rounding error behind.
  """

  sums: PrefixSums
  value_offset: jax.Array


class LinearAttention(MultiHead):
  """Multi-head causal linear attention, with biases in q, k and v.

  Attributes:
    feature_map: A name in `slim.kernels.FEATURE_MAPS`, or "favor".
    num_features: M.
    orthogonal_features: For "favor", see `sample_projection`.
  """

  feature_map: str
  num_features: int
  orthogonal_features: bool

  state_kind: ClassVar[StateKind] = "fixed"
  token_order: ClassVar[TokenOrder | None] = "chunk"
  has_documents = True

  @property
  def kept(self) -> bool:
    """Sums are undone, unless features of unbounded keys grow too far apart."""
    return self.feature_map == "favor" and not self.qk_norm

  @property
  def needs_frozen_key(self) -> bool:
    """Whether a projection is drawn."""
    return self.feature_map == "favor"

  @nn.nowrap
  def init_constants(self, key: jax.Array) -> jax.Array | None:
    """Draws the projection of "favor", [M, K]."""
    return sample_projection(
      key,
      self.num_features,
      self.head_dim,
      orthogonal=self.orthogonal_features,
    )

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> LinearState:
    """Makes sums of no tokens; see `init_prefix_sums`."""
    del max_tokens  # The sums of any number of tokens have one size.
    shape = batch_size, self.num_heads
    dtype = at_least_float32(self.dtype)
    sums = init_prefix_sums(
      *shape,
      self.num_features,
      self.head_dim,
      dtype=dtype,
      compensated=compensated and not self.kept,
    )
    return LinearState(sums, jnp.zeros((*shape, self.head_dim), dtype))

  @nn.nowrap
  def start_state(
    self, state: LinearState, after_first: LinearState
  ) -> LinearState:
    """Copies the value of the first token, which all values are relative to."""
    return state._replace(value_offset=after_first.value_offset)

  @nn.compact
  def __call__(self, x: jax.Array, state: LinearState, site: Site) -> Mixed:
    """Attends from each token to those before it and to itself.

    Args:
      x: [B, T, D].
      state: LinearState before the tokens, or after them: see `Site.rewind`.
      site: Its constants are the projection [M, K] of "favor", else None.

    Returns:
      Mixed, with a LinearState before and one after.
    """
    q, k, v = self.project(x)
    if self.feature_map == "favor":
      q = positive_random_query_features(q, site.constants)
      k = positive_random_features(k, site.constants)
      # The normaliser has no bound, and is 0 for absurdly large keys only.
      eps = 0.0
    else:
      feature_map = FEATURE_MAPS[self.feature_map]
      q, k = feature_map(q), feature_map(k)
      eps = 1e-16
    q, k = q.astype(self.dtype), k.astype(self.dtype)
    offset = state.value_offset
    if site.sequence_axis is None:
      offset = _value_offset(state, v)
    v = (v.astype(offset.dtype) - offset[:, None]).astype(self.dtype)
    if site.document_positions is not None:
      y, after = _attend_in_documents(q, k, v, state.sums, site, eps)
      return self._mixed(y, state.sums, after, offset)
    # Scores and states between blocks then have about the same size.
    block_size = max(64, math.isqrt(k.shape[-1] * v.shape[-1]))
    sums, earlier = state.sums, None
    update = token_sums(k, v, block_size=block_size)
    if site.sequence_axis is not None:
      earlier, update = exchange_sums(update, site.sequence_axis.name)
    if site.rewind and not self.kept:
      sums = rewind_prefix_sums(sums, update)
    before = sums if earlier is None else add_sums(sums, earlier)
    y, after = chunked_linear_attention(
      q, k, v, before, block_size=block_size, eps=eps
    )
    if earlier is not None:
      after = add_sums(sums, update)
    return self._mixed(y, sums, after, offset)

  def _mixed(self, y, before, after, offset):
    """Adds the value of the first token to y, and merges the heads."""
    y = (y.astype(offset.dtype) + offset[:, None]).astype(self.dtype)
    return Mixed(
      self.merge(y), LinearState(before, offset), LinearState(after, offset), ()
    )


def _attend_in_documents(q, k, v, sums, site, eps):
  """Computes linear attention whose sums start anew with each document.

  This is a gated recurrence with a log decay of -inf at the start of a document
  and 0 elsewhere. A further value channel of ones sums up the normaliser.
  """
  v = v.astype(sums.kv.dtype)
  memory = jnp.concatenate([sums.kv, sums.k[..., None]], -1)
  y, memory = chunked_gated_linear_attention(
    q,
    k,
    jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1),
    site.reset(jnp.zeros(q.shape[:3], v.dtype)),
    memory,
  )
  after = PrefixSums(memory[..., :-1], memory[..., -1], sums.error)
  return normalise(y[..., :-1], y[..., -1], eps), after


def _value_offset(state, v):
  """The value of the first token of the sequence, as a constant.

  Nothing but rounding depends on it. All keys so far may have vanished, and the
  first value may be zero, but not both.
  """
  is_first = ~(
    jnp.any(state.sums.k > 0, -1, keepdims=True)
    | jnp.any(state.value_offset != 0, -1, keepdims=True)
  )
  first = v[:, 0].astype(state.value_offset.dtype)
  return jax.lax.stop_gradient(jnp.where(is_first, first, state.value_offset))


def create_linear(model: ModelSettings, own: LinearSettings) -> LinearAttention:
  """Creates the linear attention of a layer.

  Args:
    model: The settings of the model.
    own: Those of linear attention.

  Returns:
    The module.

  Raises:
    SettingError: If settings do not fit.
  """
  if model.positions == "rotary":
    raise SettingError(
      "positions",
      "'rotary' is not for linear attention: features of rotated keys may be "
      f"negative, got attention={model.attention!r}",
    )
  return LinearAttention(
    feature_map=own.feature_map,
    num_features=own.num_features or model.head_dim,
    orthogonal_features=own.orthogonal_features,
    **multi_head_arguments(model),
  )
