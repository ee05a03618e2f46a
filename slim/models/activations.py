"""Activation functions whose backward pass keeps only their input."""

import math

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
  """Computes x Φ(x), Φ the normal distribution function, as PyTorch does.

  Φ is computed by erf. Below -4, where the value vanishes, the absolute error
  is that of rounding, but the relative error is not. `jax.nn.gelu` uses erfc,
  which is exact there and takes more time and memory.
  """
  z = x.astype(at_least_float32(x.dtype))
  cdf = 0.5 + 0.5 * jax.lax.erf(z / math.sqrt(2))
  return (z * cdf).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
  (x,), (x_dot,) = primals, tangents
  z = x.astype(at_least_float32(x.dtype))
  # Φ(z), as erf is odd. If it were written as in `gelu`, XLA would find both
  # equal, and keep the value instead of computing it again.
  cdf = 0.5 - 0.5 * jax.lax.erf(-z / math.sqrt(2))
  density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
  return gelu(x), (cdf + z * density).astype(x.dtype) * x_dot


@jax.custom_jvp
def silu(x: jax.Array) -> jax.Array:
  """Computes x σ(x), σ the logistic function, for an array of any shape."""
  z = x.astype(at_least_float32(x.dtype))
  return (z * jax.nn.sigmoid(z)).astype(x.dtype)


@silu.defjvp
def _silu_jvp(primals, tangents):
  (x,), (x_dot,) = primals, tangents
  z = x.astype(at_least_float32(x.dtype))
  # σ(z), written in another way than in `silu`: see `_gelu_jvp`.
  sigmoid = 1 - jax.nn.sigmoid(-z)
  slope = sigmoid * (1 + z * (1 - sigmoid))
  return silu(x), slope.astype(x.dtype) * x_dot
