"""FAVOR+: positive random features that approximate softmax attention.

  φ(x) = exp(W x' - |x'|² / 2) / √M   with   x' = x / K^¼.

The mean of φ(q) · φ(k) over projections W, [M, K], with rows from N(0, I) is
exp(q · k / √K).

The features of a token depend on that token only. Some implementations subtract
the maximum over all keys from the exponents, which looks at later tokens. This
is not needed: w · k' - |k'|² / 2 = |w|² / 2 - |w - k'|² / 2 is at most about
K / 2. At K = 64 no sum over keys overflows float32. At K = 128 a sum can
overflow only for keys with |k| > 20 along one w. From about |k| = 45 on, all
features of a key underflow to zero.
"""

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.random_bits import (
  check_keys,
  normal,
  split,
)
from slim.kernels.support.shapes import (
  check_float,
  check_positive_int,
)


def sample_projection(
  key: jax.Array, num_features: int, head_dim: int, *, orthogonal: bool = True
) -> jax.Array:
  """Samples the projection W of random features.

  Each row is from N(0, I). Rows are independent, or orthogonal within blocks of
  K with redrawn lengths (χ with K degrees of freedom). Both are unbiased, and
  orthogonal rows have less variance.

  Args:
    key: PRNG key.
    num_features: M. May be larger than K.
    head_dim: K.
    orthogonal: Whether rows are orthogonal within blocks of K.

  Returns:
    W, [M, K], float32, so that the features are the same in any precision.

  Raises:
    ValueError: If a size is not a positive integer, or `key` not one PRNG key.

  References:
    Choromanski et al., 2021 (Performer), https://arxiv.org/abs/2009.14794,
    section 2.4.
  """
  check_positive_int("num_features", num_features)
  check_positive_int("head_dim", head_dim)
  check_keys("key", key, ())
  if not orthogonal:
    return normal(key, (num_features, head_dim))
  direction_key, length_key = split(key, 2)
  num_blocks = -(-num_features // head_dim)
  gaussian = normal(direction_key, (num_blocks, head_dim, head_dim))
  q, r = jnp.linalg.qr(gaussian)
  # The distribution is uniform only if the diagonal of R is positive.
  q *= jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None]
  directions = q.reshape(-1, head_dim)[:num_features]
  lengths = jnp.linalg.norm(
    normal(length_key, directions.shape), axis=1, keepdims=True
  )
  return lengths * directions


def positive_random_features(x: jax.Array, projection: jax.Array) -> jax.Array:
  """Maps keys to random features: φ(x) = exp(W x' - |x'|² / 2) / √M.

  Args:
    x: [..., K], float. Keys.
    projection: W, [M, K], from `sample_projection`.

  Returns:
    [..., M], dtype of `x`, computed in float32 or wider. Positive unless exp
    underflows.

  Raises:
    ValueError: If `x` and `projection` disagree in K, or `x` is not
      floating-point.

  References:
    Choromanski et al., 2021 (Performer), https://arxiv.org/abs/2009.14794,
    lemma 1.
  """
  x = jnp.asarray(x)
  scaled, exponent = _project(x, projection)
  exponent -= jnp.square(scaled).sum(-1, keepdims=True) / 2
  return _features(exponent, x.dtype)


def positive_random_query_features(
  x: jax.Array, projection: jax.Array
) -> jax.Array:
  """Maps queries to random features, scaled so that the largest is 1 / √M.

  A factor on one query cancels between the numerator and the normaliser of its
  attention. So |x'|² is not needed, and queries of any length do not overflow.
  Pass eps=0 to linear attention, or the factor does not cancel.

  Args:
    x: [..., K], float. Queries.
    projection: W, [M, K], the same as for the keys.

  Returns:
    [..., M], dtype of `x`, computed in float32 or wider.

  Raises:
    ValueError: If `x` and `projection` disagree in K, or `x` is not
      floating-point.
  """
  x = jnp.asarray(x)
  _, exponent = _project(x, projection)
  largest = exponent.max(-1, keepdims=True)
  return _features(exponent - jax.lax.stop_gradient(largest), x.dtype)


def _project(x, projection):
  """Returns x' = x / K^¼ and W x', in float32 or wider."""
  projection = jnp.asarray(projection)
  check_float("x", x)
  if projection.ndim != 2:
    raise ValueError(
      f"projection must have shape [M, K], got {projection.shape}"
    )
  head_dim = projection.shape[-1]
  if x.shape[-1:] != (head_dim,):
    raise ValueError(
      f"x must have shape [..., K={head_dim}] like the projection, got "
      f"{x.shape}"
    )
  dtype = at_least_float32(x.dtype)
  scaled = x.astype(dtype) * head_dim**-0.25
  exponent = jnp.einsum(
    "...k,mk->...m",
    scaled,
    projection.astype(dtype),
    # In TF32 the exponential would have an error of 1e-3.
    precision=jax.lax.Precision.HIGHEST,
  )
  return scaled, exponent


def _features(exponent, dtype):
  return (jnp.exp(exponent) / exponent.shape[-1] ** 0.5).astype(dtype)
