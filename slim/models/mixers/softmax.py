"""Softmax attention, at once or by blocks; with its cache."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import (
  chunked_softmax_attention,
  ring_attention,
  softmax_attention,
)
from slim.models.mixers.mixer import (
  Mixed,
  MultiHead,
  Site,
  multi_head_arguments,
)
from slim.models.settings import ModelSettings
from slim.types import StateKind, TokenOrder, exportable

ATTENTIONS = {
  "softmax": softmax_attention,
  "chunked_softmax": chunked_softmax_attention,
}


@dataclasses.dataclass(frozen=True)
class SoftmaxSettings:
  """Settings of softmax attention alone: there are none."""

  def check(self) -> None:
    """Raises SettingError if a setting cannot work."""


@exportable
class KVCache(NamedTuple):
  """What a layer of softmax attention remembers: everything.

  Attributes:
    k: [B, S, H, K], keys; zeros from the position on.
    v: [B, S, H, K], values; likewise.
  """

  k: jax.Array
  v: jax.Array


class SoftmaxAttention(MultiHead):
  """Multi-head causal softmax attention, with biases in q, k and v.

  Attributes:
    attention: A name in `ATTENTIONS`.
    rotary: Whether queries and keys are rotated by their positions.
  """

  attention: str
  rotary: bool

  state_kind: ClassVar[StateKind] = "growing"
  can_rewind = False
  token_order: ClassVar[TokenOrder | None] = "zigzag"

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> KVCache | None:
    """Makes an empty cache, or None without `max_tokens`."""
    del compensated  # Nothing is summed.
    if max_tokens is None:
      return None
    shape = (batch_size, max_tokens, self.num_heads, self.head_dim)
    return KVCache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

  @nn.compact
  def __call__(self, x: jax.Array, state: KVCache | None, site: Site) -> Mixed:
    """Attends from each token to those before it and to itself.

    Args:
      x: [B, T, D].
      state: KVCache with room for these tokens; None if the sequence starts
        with them and nothing has to be remembered, as always where devices
        share them.
      site: Where the tokens are.

    Returns:
      Mixed, with the cache before and after.

    Raises:
      ValueError: If T is more than the cache has room for.
    """
    length, position = x.shape[1], site.position
    if state is not None and length > state.k.shape[1]:
      raise ValueError(
        f"state must have room for the {length} tokens given, got one for "
        f"{state.k.shape[1]}; see max_tokens of init_state"
      )
    q, k, v = self.project(x, site.positions(length) if self.rotary else None)
    q, k = q.astype(self.dtype), k.astype(self.dtype)
    if site.sequence_axis is not None:
      y = ring_attention(q, k, v, axis_name=site.sequence_axis.name)
      return Mixed(self.merge(y), None, None, ())
    cache = state
    offset: jax.Array | int = 0  # A number makes loops of known length.
    if cache is not None:
      offset = position
      k, v = cache = KVCache(
        *(
          jax.lax.dynamic_update_slice_in_dim(old, new, position, 1)
          for old, new in zip(cache, (k, v), strict=True)
        )
      )
    y = ATTENTIONS[self.attention](q, k, v, is_causal=True, query_offset=offset)
    return Mixed(self.merge(y), state, cache, ())


def create_softmax(
  attention: str, model: ModelSettings, own: SoftmaxSettings
) -> SoftmaxAttention:
  """Creates the softmax attention of a layer.

  Args:
    attention: A name in `ATTENTIONS`.
    model: The settings of the model.
    own: Those of softmax attention.

  Returns:
    The module.
  """
  del own
  return SoftmaxAttention(
    attention=attention,
    rotary=model.positions == "rotary",
    **multi_head_arguments(model),
  )
