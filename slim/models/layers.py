"""The parts that every model shares: embedding, MLP, normalisation, dropout."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class MLP(nn.Module):
  """Two layers with an exact (erf) GELU between them."""

  hidden_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    hidden = dense(x, self.hidden_dim, self.dtype, "in")
    hidden = gelu(hidden)
    return dense(hidden, x.shape[-1], self.dtype, "out")


class Embedding(nn.Module):
  """Half of the width a learned embedding N(0, 1), half sinusoids."""

  vocab_size: int
  width: int
  dtype: Any

  @nn.compact
  def __call__(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    """Maps tokens [B, T] and positions [T] to [B, T, D]."""
    learned_dim = self.width - self.width // 2
    table = self.param(
      "table",
      nn.initializers.normal(1.0),
      (self.vocab_size, learned_dim),
      wide(self.dtype),
    )
    # Looked up before the cast: a bfloat16 scatter would lose gradient.
    learned = table[tokens].astype(self.dtype)
    fixed = sinusoids(positions, self.width // 2).astype(self.dtype)
    fixed = jnp.broadcast_to(fixed, (*tokens.shape, fixed.shape[-1]))
    return jnp.concatenate([learned, fixed], -1)


class Logits(nn.Module):
  """A linear map to the vocabulary, in float32 or wider from there on."""

  vocab_size: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, vocab_size]."""
    return dense(x, self.vocab_size, self.dtype, "out").astype(wide(self.dtype))


def dense(x: jax.Array, features: int, dtype: Any, name: str) -> jax.Array:
  """y = x W + b, initialised U(±1/√fan_in), weight and bias, as PyTorch does.

  Called within a compact method, it adds the layer `name` to that module.
  """
  bound = 1 / math.sqrt(x.shape[-1])

  def uniform(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  layer = nn.Dense(
    features,
    dtype=dtype,
    param_dtype=wide(dtype),
    kernel_init=uniform,
    bias_init=uniform,
    name=name,
  )
  return _by_rows(layer, x)


class LayerNorm(nn.Module):
  """LayerNorm with learned scale and bias, ε = 1e-5."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    shape, dtype = x.shape[-1:], wide(self.dtype)
    scale = self.param("scale", nn.initializers.ones, shape, dtype)
    bias = self.param("bias", nn.initializers.zeros, shape, dtype)

    x = standardise(x.astype(self.dtype))
    x = _by_rows(lambda rows: rows * scale[None] + bias[None], x)
    return x.astype(self.dtype)


@jax.custom_jvp
def standardise(x: jax.Array) -> jax.Array:
  """z = (x - mean) / √(variance + 1e-5) over the last axis.

  The derivative, (ẋ - mean(ẋ) - z mean(z ẋ)) / √…, is written in z, which is
  all that is kept of x. `nn.LayerNorm` keeps three arrays more.
  """
  return _standardise(x)[0]


@standardise.defjvp
def _standardise_jvp(primals, tangents):
  (x,), (x_dot,) = primals, tangents
  z, inverse_deviation = _standardise(x)
  zw, x_dot = (a.astype(inverse_deviation.dtype) for a in (z, x_dot))
  along = jnp.mean(zw * x_dot, -1, keepdims=True)
  z_dot = x_dot - jnp.mean(x_dot, -1, keepdims=True) - zw * along
  return z, (inverse_deviation * z_dot).astype(z.dtype)


def _standardise(x):
  centred = x.astype(wide(x.dtype))
  centred -= centred.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  inverse_deviation = jax.lax.rsqrt(variance + 1e-5)
  return (centred * inverse_deviation).astype(x.dtype), inverse_deviation


def _by_rows(layer, x):
  """Applies a layer with batch and time as one axis.

  The derivatives with respect to its parameters are sums over that axis. Over
  two axes XLA's CPU compiler forms them several times slower (jax 0.10.2).
  """
  rows = layer(x.reshape(-1, x.shape[-1]))
  return rows.reshape(*x.shape[:-1], rows.shape[-1])


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """x Φ(x), with Φ the normal distribution function by erf, as in PyTorch.

  Right to rounding absolutely, not relatively, below -4, where it vanishes.
  By erfc, as in `jax.nn.gelu`, the tail would be right too, in more time and
  memory. Here the derivative Φ(x) + x φ(x) itself is what is kept.
  """
  return _gelu_and_slope(x)[0]


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  (x,), (x_dot,) = primals, tangents
  y, slope = _gelu_and_slope(x)
  return y, slope * x_dot


def _gelu_and_slope(x):
  z = x.astype(wide(x.dtype))
  cdf = 0.5 + 0.5 * jax.lax.erf(z / math.sqrt(2))
  density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
  return (z * cdf).astype(x.dtype), (cdf + z * density).astype(x.dtype)


def wide(dtype: Any) -> Any:
  """The dtype of parameters and states: float32, or wider if `dtype` is."""
  return jnp.promote_types(dtype, jnp.float32)


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
  """Absolute position features: sin half, then cos half, base 10000.

  [sin(p f_i) …, cos(p f_i) …],   f_i = 10000^(-i / (width / 2)).

  The angle is kept in turns as a 32-bit fixed-point number, whose overflow is
  the reduction modulo one turn. It is off by at most 7.3e-10 · p radians:
  8e-4 at a position of 2^20, where float32 angles would be off by 0.06.

  Args:
    positions: [T], int32.
    width: Number of features, even.

  Returns:
    [T, width], float32.

  References:
    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section 3.5.
  """
  half = width // 2
  turns = 10000.0 ** (-np.arange(half) / half) / (2 * np.pi)
  per_token = jnp.asarray(np.round(turns * 2.0**32).astype(np.uint32))
  phase = jnp.outer(positions.astype(jnp.uint32), per_token)
  phase = jax.lax.bitcast_convert_type(phase, jnp.int32)
  angle = phase.astype(jnp.float32) * np.float32(2 * np.pi / 2.0**32)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def dropout(
  x: jax.Array, rate: float, keys: jax.Array | None, positions: jax.Array
) -> jax.Array:
  """Drops elements by a mask that depends on (key, position) alone.

  So any cut into chunks, any recomputation and any mesh drop the same elements.

  Args:
    x: [B, T, D], float.
    rate: Probability to drop, in [0, 1).
    keys: [B], PRNG keys, one a sequence and different for each layer; or None
      for no dropout.
    positions: [T], int32, absolute.

  Returns:
    [B, T, D], dtype of `x`; what is kept is scaled by 1 / (1 - rate).
  """
  if keys is None or rate == 0:
    return x

  def mask(key, position):
    key = jax.random.fold_in(key, position)
    return jax.random.bernoulli(key, 1 - rate, x.shape[-1:])

  over_positions = jax.vmap(mask, in_axes=(None, 0))
  kept = jax.vmap(over_positions, in_axes=(0, None))(keys, positions)
  return jnp.where(kept, x / (1 - rate), 0)
