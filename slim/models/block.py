"""One layer: attention, then an MLP, each added to what it is a function of."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from slim.kernels import chunked_map
from slim.models.layers import MLP
from slim.models.norms import LayerNorm

NORMS = ("pre", "post", "output")


class Block(nn.Module):
  """A layer of two sublayers f, added in one of three ways.

  x + f(LN(x)) is "pre", LN(x + f(x)) "post", x + LN(f(x)) "output".

  Attributes:
    attention: `attention(x, context, replay, *static) -> (y, state, replay)`
      maps x [B, T, D] to y [B, T, D]. The context is a pytree of arrays, as is
      the state; what is drawn or decided once and has to be the same where the
      layer is computed anew is the replay, None the first time.
    mlp: Maps [B, T, D] to [B, T, D], token by token.
    mlp_chunk_size: Tokens that the MLP sees at once, and a norm that is not
      "post"; None: all.
    norm: One of `NORMS`.
    dtype: Of the computation.
  """

  attention: nn.Module
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
    drop: Callable[[jax.Array, int], jax.Array],
    context: Any,
    *static: Any,
  ) -> tuple[jax.Array, Any]:
    """Maps x [B, T, D] to [B, T, D] and to the state of its attention.

    `drop(x, sublayer)` drops elements of what sublayer 0 or 1 adds.
    """
    y, state, _ = self.attend(x, context, None, *static)
    x = x + drop(y, 0)
    if self.norm == "post":
      x = self.attention_norm(x)
    x = x + drop(self.feed(x), 1)
    if self.norm == "post":
      x = self.mlp_norm(x)
    return x, state

  def attend(
    self, x: jax.Array, context: Any, replay: Any, *static: Any
  ) -> tuple[jax.Array, Any, Any]:
    """Computes what attention adds to x [B, T, D], its state and its replay."""
    if self.norm == "pre":
      x = self._in_chunks([self.attention_norm], x)
    y, state, replay = self.attention(x, context, replay, *static)
    if self.norm == "output":
      y = self._in_chunks([self.attention_norm], y)
    return y, state, replay

  def feed(self, x: jax.Array) -> jax.Array:
    """Computes what the MLP adds to x [B, T, D]."""
    layers = {
      "pre": [self.mlp_norm, self.mlp],
      "post": [self.mlp],
      "output": [self.mlp, self.mlp_norm],
    }
    return self._in_chunks(layers[self.norm], x)

  def _in_chunks(self, layers, x):
    """Applies layers in turn, all of them to one chunk after the other."""
    if self.mlp_chunk_size is None or self.is_initializing():
      for layer in layers:
        x = layer(x)
      return x
    unbound, params = zip(*(layer.unbind() for layer in layers), strict=True)

    def apply(params, x):
      for layer, its_params in zip(unbound, params, strict=True):
        x = layer.apply(its_params, x)
      return x

    return chunked_map(apply, params, x, chunk_size=self.mlp_chunk_size)
