"""One layer: a mixer and an MLP, each added to its own input."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from slim.kernels import chunked_map
from slim.models.layers import MLP
from slim.models.mixers.mixer import Mixed, Mixer, Site
from slim.models.norms import LayerNorm
from slim.types import State


class Block(nn.Module):
  """A layer of two sublayers f, in one of three forms.

  "pre" is x + f(LN(x)), "post" is LN(x + f(x)), "output" is x + LN(f(x)).

  Attributes:
    attention: The mixer, a `slim.models.mixers.mixer.Mixer`.
    mlp: Maps [B, T, D] to [B, T, D], token by token.
    mlp_chunk_size: Tokens that the MLP processes at a time, and so does a norm
      that is not "post"; None: all.
    norm: One of `slim.models.settings.NORMS`.
    dtype: Of the computation.
  """

  attention: Mixer
  mlp: MLP
  mlp_chunk_size: int | None
  norm: str
  dtype: Any

  def setup(self):
    """Names the norms."""
    self.attention_norm = LayerNorm(self.dtype)
    self.mlp_norm = LayerNorm(self.dtype)

  def __call__(
    self,
    x: jax.Array,
    state: State,
    site: Site,
    drop: Callable[[jax.Array, int], jax.Array],
  ) -> tuple[jax.Array, State, State]:
    """Applies the layer to x [B, T, D].

    Args:
      x: [B, T, D].
      state: The state of the mixer.
      site: Where and how the mixer is called.
      drop: `drop(y, sublayer)` drops elements of what sublayer 0 or 1 adds.

    Returns:
      [B, T, D], the state before the tokens, and the state after them.
    """
    mixed = self.mix(x, state, site)
    x = x + drop(mixed.y, 0)
    if self.norm == "post":
      x = self.attention_norm(x)
    x = x + drop(self.feed(x), 1)
    if self.norm == "post":
      x = self.mlp_norm(x)
    return x, mixed.before, mixed.after

  def mix(self, x: jax.Array, state: State, site: Site) -> Mixed:
    """Computes what the mixer adds to x [B, T, D], and its states."""
    if self.norm == "pre":
      x = self._in_chunks([self.attention_norm], x)
    mixed = self.attention(x, state, site)
    if self.norm == "output":
      y = self._in_chunks([self.attention_norm], mixed.y)
      mixed = mixed._replace(y=y)
    return mixed

  def feed(self, x: jax.Array) -> jax.Array:
    """Computes what the MLP adds to x [B, T, D]."""
    layers = {
      "pre": [self.mlp_norm, self.mlp],
      "post": [self.mlp],
      "output": [self.mlp, self.mlp_norm],
    }
    return self._in_chunks(layers[self.norm], x)

  def _in_chunks(self, layers, x):
    """Applies layers in turn to one chunk of tokens after the other."""
    if self.mlp_chunk_size is None or self.is_initializing():
      for layer in layers:
        x = layer(x)
      return x
    unbound, params = zip(*(layer.unbind() for layer in layers), strict=True)

    def apply(params, x):
      for layer, variables in zip(unbound, params, strict=True):
        x = layer.apply(variables, x)
      return x

    return chunked_map(apply, params, x, chunk_size=self.mlp_chunk_size)
