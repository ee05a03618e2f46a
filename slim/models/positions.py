"""Positional encodings: sinusoids and rotations."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.support.dtypes import at_least_float32


def sinusoids(positions: jax.Array, width: int) -> jax.Array:
  """Computes absolute position features: half sines, half cosines.

  [sin(p f_i) …, cos(p f_i) …],   f_i = 10000^(-i / (width / 2)).

  Args:
    positions: […], int32.
    width: Number of features, even.

  Returns:
    […, width], float32.

  References:
    Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, section 3.5.
  """
  angle = _angles(positions, width // 2)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
  """Rotates queries or keys, so that q · k depends on relative positions.

  Features i and i + K / 2 are rotated by p f_i, f_i = 10000^(-i / (K / 2)).

  Args:
    x: [B, T, H, K], float; K is even.
    positions: [T] or [B, T], int32.

  Returns:
    [B, T, H, K], dtype of `x`; computed in float32 or wider.

  References:
    Su et al., 2021 (RoFormer), https://arxiv.org/abs/2104.09864, equation 34.
  """
  dtype = at_least_float32(x.dtype)
  positions = jnp.atleast_2d(positions)
  angle = _angles(positions, x.shape[-1] // 2)[:, :, None].astype(dtype)
  one, two = jnp.split(x.astype(dtype), 2, -1)
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  rotated = [one * cos - two * sin, two * cos + one * sin]
  return jnp.concatenate(rotated, -1).astype(x.dtype)


def _angles(positions, count):
  """Computes p f_i for `count` frequencies, […, count], modulo one turn.

  The angle is a 32-bit fixed-point number of turns, so overflow reduces it
  modulo one turn. Its error is at most 7.3e-10 · p radians: 8e-4 at position
  2^20, where float32 angles would be off by 0.06.
  """
  turns = 10000.0 ** (-np.arange(count) / count) / (2 * np.pi)
  per_token = jnp.asarray(np.round(turns * 2.0**32).astype(np.uint32))
  per_token = per_token.reshape(*[1] * positions.ndim, count)
  phase = positions[..., None].astype(jnp.uint32) * per_token
  phase = jax.lax.bitcast_convert_type(phase, jnp.int32)
  return phase.astype(jnp.float32) * np.float32(2 * np.pi / 2.0**32)
