"""Softmax attention to a window of tokens, and the state that it needs."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels import chunked_softmax_attention
from slim.models.mixers.mixer import (
  Mixed,
  MultiHead,
  Site,
  multi_head_arguments,
)
from slim.models.settings import ModelSettings
from slim.settings import check_settings, setting
from slim.types import StateKind, exportable


@dataclasses.dataclass(frozen=True)
class LocalSettings:
  """Settings of local attention alone."""

  window: int = setting(
    128, "For 'local': tokens that a token attends to, including itself."
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
    k: [B, W - 1, H, K], keys; anything where there was no token yet.
    v: [B, W - 1, H, K], values; likewise.
  """

  k: jax.Array
  v: jax.Array


class LocalAttention(MultiHead):
  """Multi-head softmax attention to the last W tokens.

  Attributes:
    window: W, tokens that a token attends to, including itself.
    rotary: Whether queries and keys are rotated by their positions.
  """

  window: int
  rotary: bool

  state_kind: ClassVar[StateKind] = "fixed"
  can_rewind = False  # What falls out of the window is lost.

  @nn.nowrap
  def init_state(
    self, batch_size: int, *, compensated: bool, max_tokens: int | None
  ) -> WindowState:
    """Makes the window before the first token."""
    del compensated, max_tokens  # Nothing is summed, nothing grows.
    shape = (batch_size, self.window - 1, self.num_heads, self.head_dim)
    return WindowState(
      jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)
    )

  @nn.compact
  def __call__(self, x: jax.Array, state: WindowState, site: Site) -> Mixed:
    """Attends from each token to the W - 1 before it and to itself.

    Args:
      x: [B, T, D].
      state: The window before these tokens.
      site: Where the tokens are.

    Returns:
      Mixed, with the window before and after.
    """
    length = x.shape[1]
    q, k, v = self.project(x, site.positions(length) if self.rotary else None)
    num_before = self.window - 1
    k = jnp.concatenate([state.k, k.astype(self.dtype)], 1)
    v = jnp.concatenate([state.v, v.astype(self.dtype)], 1)
    y = chunked_softmax_attention(
      q.astype(self.dtype),
      k,
      v,
      is_causal=True,
      local_window_size=(num_before, 0),
      query_offset=num_before,
      # The window reaches back before the first token.
      mask_fn=lambda i, j: j >= num_before - site.position,
    )
    after = WindowState(k[:, length:], v[:, length:])
    return Mixed(self.merge(y), state, after, ())


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
    rotary=model.positions == "rotary",
    **multi_head_arguments(model),
  )
