"""Random prefix sums for their tests."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import PrefixSums

B, H, M, V = 2, 2, 3, 4


def random_sums(seed, *leading, compensated=False, dtype=jnp.float32):
  """Sums over some tokens, or a stack of such sums."""
  keys = jax.random.split(jax.random.key(seed))
  sums = PrefixSums(
    jax.random.normal(keys[0], (*leading, B, H, M, V), dtype),
    jax.random.normal(keys[1], (*leading, B, H, M), dtype),
  )
  if not compensated:
    return sums
  # As large as real rounding errors.
  return sums._replace(error=jax.tree.map(lambda x: 1e-8 * x, sums))


def random_tokens(length, dtype=jnp.float32):
  """Keys after a feature map, and values."""
  keys = jax.random.split(jax.random.key(5))
  return (
    jax.random.uniform(keys[0], (B, length, H, M), dtype),
    jax.random.normal(keys[1], (B, length, H, V), dtype),
  )


def exact(sums):
  """The values of the sums, as two arrays in float64."""
  values = [np.float64(sums.kv), np.float64(sums.k)]
  if sums.error is None:
    return values
  return [v + e for v, e in zip(values, exact(sums.error), strict=True)]
