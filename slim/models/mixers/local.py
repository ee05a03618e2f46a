"""Softmax attention to a window of tokens, with one of two states.

"window" is the keys and values of the last W - 1 tokens, whatever the length of
the sequence. A gradient over chunks stores it once a chunk: T / C windows, at
most T tokens if W ≤ C. "cache" is those of all tokens, stored once.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import (
  KVCache,
  append_softmax_attention,
  chunked_softmax_attention,
  init_cache,
)
from slim.kernels.support.dtypes import at_least_float32
from slim.models.mixers.mixer import Mixed, Site
from slim.models.mixers.multi_head import MultiHead, multi_head_arguments
from slim.models.settings import ModelSettings
from slim.settings import check_settings, setting
from slim.types import StateKind, exportable


@dataclasses.dataclass(frozen=True)
class LocalSettings:
  """Settings of local attention alone."""

  window: int = setting(
    128, "For 'local': tokens that a token attends to, including itself."
  )
  window_state: str = setting(
    "window",
    "For 'local': what is remembered, the last tokens (window), or all "
    "(cache). With method 'slim', 'window' takes memory for T / C windows, "
    "'cache' for two caches of T tokens.",
    choices=("window", "cache"),
  )

  def check(self) -> None:
    """Raises SettingError if a setting cannot work."""
    check_settings(self)


@exportable
class WindowState(NamedTuple):
  """The keys and values of the last W - 1 tokens; W is the window.

  They are in the order of the tokens, the last one at the end. (A ring, whose
  oldest entry is overwritten, would move less, but attention reads all of it
  anyhow, and needs the order to skip blocks.)

  Attributes:
    k: [B, W - 1, G, K], keys; anything where there was no token yet.
    v: [B, W - 1, G, K], values; likewise.
  """

  k: jax.Array
  v: jax.Array


class LocalAttention(MultiHead):
  """Multi-head softmax attention to the last W tokens.

  Attributes:
    window: W, tokens that a token attends to, including itself.
    has_cache: Whether the state is a KVCache, not a WindowState.
    rotary: Whether queries and keys are rotated by their positions.
    num_kv_heads: G, heads of keys and values; divides the number of heads.
  """

  window: int
  has_cache: bool
  rotary: bool
  num_kv_heads: int

  has_documents = True

  @property
  def num_groups(self) -> int:
    """G."""
    return self.num_kv_heads

  @property
  def state_kind(self) -> StateKind:
    """A cache grows, a window does not."""
    return "growing" if self.has_cache else "fixed"

  @property
  def kept(self) -> bool:
    """What falls out of a window is lost; a cache loses nothing."""
    return not self.has_cache

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> WindowState | KVCache | None:
    """Makes the state before the first token; None for a cache of no size."""
    # All chunks add to the cotangent of a state, which has its dtype.
    dtype = at_least_float32(self.dtype)
    heads = self.num_groups, self.head_dim
    if not self.has_cache:
      shape = batch_size, self.window - 1, *heads
      return WindowState(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    if max_tokens is None:
      return None
    dtype = dtype if compensated else self.dtype
    return init_cache(
      batch_size, max_tokens, *heads, self.head_dim, dtype=dtype
    )

  @nn.compact
  def __call__(
    self, x: jax.Array, state: WindowState | KVCache | None, site: Site
  ) -> Mixed:
    """Attends from each token to the W - 1 before it and to itself.

    Args:
      x: [B, T, D].
      state: The state before these tokens; None if the sequence starts with
        them and nothing has to be remembered.
      site: Where the tokens are.

    Returns:
      Mixed, with the state before and after.
    """
    length, num_before = x.shape[1], self.window - 1
    q, k, v = self.project(x, site.positions(length) if self.rotary else None)
    q, k, v = (array.astype(self.dtype) for array in (q, k, v))
    before: WindowState | KVCache | None = state
    after: WindowState | KVCache | None = None
    if state is None:
      y = chunked_softmax_attention(
        q,
        k,
        v,
        is_causal=True,
        local_window_size=(num_before, 0),
        mask_fn=site.document_mask(0),
      )
    elif isinstance(state, KVCache):
      y, after = append_softmax_attention(
        q,
        k,
        v,
        state,
        site.position,
        local_window_size=(num_before, 0),
        mask_fn=site.document_mask(site.position),
      )
      # Rows from the position on are out of sight.
      before = after if site.rewind else state
    else:
      k, v = (
        jnp.concatenate([old, new.astype(old.dtype)], 1)
        for old, new in zip(state, (k, v), strict=True)
      )
      y = chunked_softmax_attention(
        q,
        k,
        v,
        is_causal=True,
        local_window_size=(num_before, 0),
        query_offset=num_before,
        # The window reaches back before the first token.
        mask_fn=site.document_mask(num_before)
        or (lambda i, j: j >= num_before - site.position),
      )
      after = WindowState(k[:, length:], v[:, length:])
    return Mixed(self.merge(y.astype(self.dtype)), before, after, ())


def create_local(model: ModelSettings, own: LocalSettings) -> LocalAttention:
  """Creates the local attention of a layer.

  Args:
    model: The settings of the model.
    own: Those of local attention.

  Returns:
    The module.
  """
  return LocalAttention(
    window=own.window,
    has_cache=own.window_state == "cache",
    rotary=model.positions == "rotary",
    num_kv_heads=model.num_kv_heads or model.num_heads,
    **multi_head_arguments(model),
  )
