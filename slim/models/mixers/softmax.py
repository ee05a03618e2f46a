"""Softmax attention, at once or by blocks; with its cache."""

import dataclasses
from typing import ClassVar

import jax
from flax import linen as nn

from slim.kernels import (
  KVCache,
  append_softmax_attention,
  chunked_softmax_attention,
  init_cache,
  ring_attention,
  softmax_attention,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.models.mixers.mixer import Mixed, Site
from slim.models.mixers.multi_head import MultiHead, multi_head_arguments
from slim.models.settings import ModelSettings
from slim.types import StateKind, TokenOrder

ATTENTIONS = {
  "softmax": softmax_attention,
  "chunked_softmax": chunked_softmax_attention,
}


@dataclasses.dataclass(frozen=True)
class SoftmaxSettings:
  """Settings of softmax attention alone: there are none."""

  def check(self) -> None:
    """Raises SettingError if a setting cannot work."""


class SoftmaxAttention(MultiHead):
  """Multi-head causal softmax attention, with biases in q, k and v.

  Attributes:
    attention: A name in `ATTENTIONS`.
    rotary: Whether queries and keys are rotated by their positions.
    num_kv_heads: G, heads of keys and values; divides the number of heads.
  """

  attention: str
  rotary: bool
  num_kv_heads: int

  state_kind: ClassVar[StateKind] = "growing"
  kept = False  # The position is moved back.
  token_order: ClassVar[TokenOrder | None] = "zigzag"
  has_documents = True

  @property
  def num_groups(self) -> int:
    """G."""
    return self.num_kv_heads

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> KVCache | None:
    """Makes an empty cache, or None without `max_tokens`."""
    if max_tokens is None:
      return None
    return init_cache(
      batch_size,
      max_tokens,
      self.num_groups,
      self.head_dim,
      self.head_dim,
      # All chunks add to the cotangent of the cache, which has its dtype.
      dtype=at_least_float32(self.dtype) if compensated else self.dtype,
    )

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
    length = x.shape[1]
    q, k, v = self.project(x, site.positions(length) if self.rotary else None)
    q, k = q.astype(self.dtype), k.astype(self.dtype)
    before, after = state, None
    if site.sequence_axis is not None:
      y = ring_attention(q, k, v, axis_name=site.sequence_axis.name)
    elif state is None:
      mask_fn = site.document_mask(0)
      y = ATTENTIONS[self.attention](q, k, v, is_causal=True, mask_fn=mask_fn)
    else:
      mask_fn = site.document_mask(site.position)
      y, after = append_softmax_attention(
        q, k, v, state, site.position, mask_fn=mask_fn
      )
      # Rows from the position on are out of sight.
      before = after if site.rewind else state
    return Mixed(self.merge(y), before, after, ())


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
    num_kv_heads=model.num_kv_heads or model.num_heads,
    **multi_head_arguments(model),
  )
