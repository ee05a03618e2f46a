"""Layers that all models share: embedding, MLP, output layer, dropout."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.random_bits import (
  fold_in,
  normal,
  uniform,
)
from slim.models.activations import gelu
from slim.models.positions import sinusoids
from slim.models.settings import BOUNDED_POSITIONS


class MLP(nn.Module):
  """Two dense layers with an exact (erf) GELU between them."""

  hidden_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    hidden = dense(x, self.hidden_dim, self.dtype, "in")
    hidden = gelu(hidden)
    return dense(hidden, x.shape[-1], self.dtype, "out")


class Embedding(nn.Module):
  """Embeds tokens and, unless they are rotary, their positions.

  The table is initialised N(0, 1).

  Attributes:
    vocab_size: Number of tokens.
    width: D.
    positions: "concatenated": half of the width is learned, half sinusoids.
      "sinusoidal", "learned" and "axial" are added. "rotary" adds nothing here:
      attention rotates queries and keys.
    max_positions: For "learned" and "axial". Later positions give NaN; "axial"
      has a few more, to the end of its last row.
    scaled: Whether the table is initialised N(0, 1 / D) and multiplied by √D,
      so that its transpose can be the output layer.
    dtype: Of the computation.
  """

  vocab_size: int
  width: int
  positions: str
  max_positions: int
  scaled: bool
  dtype: Any

  @property
  def is_bounded(self) -> bool:
    """Whether later positions give NaN."""
    return self.positions in BOUNDED_POSITIONS

  @nn.compact
  def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Maps tokens [B, T] and positions [T] or [B, T] to [B, T, D].

    A token that is not in the vocabulary gives NaN.
    """
    positions = jnp.atleast_2d(positions)
    concatenated = self.positions == "concatenated"
    fixed_dim = self.width // 2 if concatenated else 0
    scale = self.width**0.5 if self.scaled else 1.0
    table = self.param(
      "table",
      _normal_init(1 / scale),
      (self.vocab_size, self.width - fixed_dim),
      at_least_float32(self.dtype),
    )
    # Look up before the cast: a scatter in bfloat16 would lose gradient.
    x = scale * _look_up(table, tokens)
    if concatenated:
      fixed = sinusoids(positions, fixed_dim).astype(x.dtype)
      fixed = jnp.broadcast_to(fixed, (*tokens.shape, fixed_dim))
      x = jnp.concatenate([x, fixed], -1)
    elif self.positions == "sinusoidal":
      x += sinusoids(positions, self.width).astype(x.dtype)
    elif self.positions == "learned":
      x += self._learned("positions", self.max_positions, self.width, positions)
    elif self.positions == "axial":
      # Position p is in row p // columns of a table that is never formed.
      columns = math.isqrt(self.max_positions - 1) + 1
      rows = -(-self.max_positions // columns)
      row = self._learned("rows", rows, self.width // 2, positions // columns)
      column = self._learned(
        "columns", columns, self.width // 2, positions % columns
      )
      x += jnp.concatenate([row, column], -1)
    return x.astype(self.dtype)

  def _learned(self, name, count, width, index):
    """Looks up [1 or B, T, width] in a learned table of `count` vectors."""
    dtype = at_least_float32(self.dtype)
    table = self.param(name, _normal_init(1.0), (count, width), dtype)
    return _look_up(table, index)


def _look_up(table, index):
  """Rows of a table; NaN for those that it does not have."""
  return table.at[index].get(
    mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
  )


class Logits(nn.Module):
  """A linear map to the vocabulary; logits are float32 or wider.

  Their products are rounded to the dtype of the computation.
  """

  vocab_size: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, table: jax.Array | None = None) -> jax.Array:
    """Maps [B, T, D] to [B, T, vocab_size].

    With the embedding's `table` [vocab_size, D], only the bias is learned here.
    """
    if table is None:
      logits = dense(x, self.vocab_size, self.dtype, "out")
    else:
      shape, dtype = (self.vocab_size,), at_least_float32(self.dtype)
      bias = self.param("bias", nn.initializers.zeros, shape, dtype)
      logits = (x @ table.T.astype(self.dtype)).astype(dtype)
      logits += bias[None, None]
    return logits.astype(at_least_float32(self.dtype))


class _Dense(nn.Module):
  """As `flax.linen.Dense`; the gradient of the bias is summed in float32."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps rows [N, D] to [N, features]."""
    dtype, shape = at_least_float32(self.dtype), (x.shape[-1], self.features)
    bound = 1 / math.sqrt(x.shape[-1])
    init = uniform_init(-bound, bound)
    kernel = self.param("kernel", init, shape, dtype)
    bias = self.param("bias", init, shape[1:], dtype)
    y = x.astype(self.dtype) @ kernel.astype(self.dtype)
    return (y.astype(dtype) + bias[None]).astype(self.dtype)


def dense(x: jax.Array, features: int, dtype: Any, name: str) -> jax.Array:
  """Computes y = x W + b; both are initialised U(±1/√fan_in), as in PyTorch.

  Called within a compact method, it adds the layer `name` to that module.
  """
  return flatten_batch_time(_Dense(features, dtype, name=name), x)


def dense_heads(
  x: jax.Array, num_heads: int, head_dim: int, dtype: Any, name: str
) -> jax.Array:
  """Applies a `dense` layer from [B, T, D] to [B, T, H, K]."""
  y = dense(x, num_heads * head_dim, dtype, name)
  return y.reshape(*x.shape[:-1], num_heads, head_dim)


def flatten_batch_time(
  layer: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
  """Applies a layer with batch and time flattened into one axis.

  Gradients of its parameters are sums over that axis. XLA for CPUs computes
  sums over two axes several times slower (jax 0.10.2).
  """
  rows = layer(x.reshape(-1, x.shape[-1]))
  return rows.reshape(*x.shape[:-1], rows.shape[-1])


# Initialisers draw in float32: a model starts from the same parameters in any
# precision.


def _normal_init(scale):
  def init(key, shape, dtype):
    return (normal(key, shape) * jnp.float32(scale)).astype(dtype)

  return init


def uniform_init(
  low: float, high: float
) -> Callable[[jax.Array, tuple[int, ...], Any], jax.Array]:
  """Makes an initialiser that draws from U[low, high)."""

  def init(key, shape, dtype):
    return _uniform(key, shape, low, high).astype(dtype)

  return init


@jax.jit(static_argnums=(1, 2, 3))  # Compiled, so that it always rounds alike.
def _uniform(key, shape, low, high):
  drawn = uniform(key, jnp.arange(math.prod(shape))).reshape(shape)
  low, high = np.float32(low), np.float32(high)
  return jnp.maximum(low, drawn * (high - low) + low)


def dropout(
  x: jax.Array, rate: float, keys: jax.Array | None, positions: jax.Array
) -> jax.Array:
  """Drops elements by a mask that depends only on (key, position).

  Every chunk size, recomputation and mesh drops the same elements, with PRNG
  keys of any implementation.

  Args:
    x: [B, T, D], float.
    rate: Probability to drop, in [0, 1).
    keys: [B], PRNG keys, one for each sequence, different in each layer; None:
      no dropout.
    positions: [T], int32, absolute.

  Returns:
    [B, T, D], dtype of `x`; kept elements are scaled by 1 / (1 - rate).
  """
  if keys is None or rate == 0:
    return x
  rate = float(rate)  # A NumPy float64 would widen a bfloat16 x.
  token_keys = fold_in(keys[:, None], positions[None])
  drawn = uniform(token_keys[..., None], jnp.arange(x.shape[-1])[None, None])
  return jnp.where(drawn < jnp.float32(1 - rate), x / (1 - rate), 0)
