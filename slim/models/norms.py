"""LayerNorm, and the normalisation of queries and keys."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from slim.kernels.support.dtypes import at_least_float32
from slim.models.layers import flatten_batch_time


class LayerNorm(nn.Module):
  """LayerNorm with learned scale and bias, ε = 1e-5."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, T, D] to [B, T, D]."""
    shape, dtype = x.shape[-1:], at_least_float32(self.dtype)
    scale = self.param("scale", nn.initializers.ones, shape, dtype)
    bias = self.param("bias", nn.initializers.zeros, shape, dtype)

    x = flatten_batch_time(
      lambda rows: standardise(rows).astype(dtype) * scale[None] + bias[None],
      x.astype(self.dtype),
    )
    return x.astype(self.dtype)


@jax.custom_jvp
def standardise(x: jax.Array) -> jax.Array:
  """Computes z = (x - mean) / √(variance + 1e-5) over the last axis.

  The derivative, (ẋ - mean(ẋ) - z mean(z ẋ)) / √…, is written in terms of z, so
  that the backward pass keeps only z. `nn.LayerNorm` keeps three more arrays.
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
  centred = x.astype(at_least_float32(x.dtype))
  centred -= centred.mean(-1, keepdims=True)
  variance = jnp.square(centred).mean(-1, keepdims=True)
  inverse_deviation = jax.lax.rsqrt(variance + 1e-5)
  return (centred * inverse_deviation).astype(x.dtype), inverse_deviation


def normalize_heads(x: jax.Array, name: str, *, use_scale: bool) -> jax.Array:
  """Scales heads [..., K] to length K^¼, and optionally by learned factors.

  Called within a compact method, it adds the layer `name` to that module.

  Returns:
    [..., K], float32 or wider: the exponential of "favor" turns an absolute
    error into a relative one.
  """
  dtype = at_least_float32(x.dtype)
  norm = nn.RMSNorm(
    epsilon=1e-5,
    use_scale=use_scale,
    dtype=dtype,
    param_dtype=dtype,
    name=name,
  )
  # The norm returns a root mean square of 1, which is a length of √K.
  return norm(x.astype(dtype)) * x.shape[-1] ** -0.25
