"""FAVOR+: positive random features, which make of linear attention softmax's.

  φ(x) = exp(W x' - |x'|² / 2) / √M   with   x' = x / K^¼,

so that φ(q) · φ(k) is exp(q · k / √K) on average over projections W, [M, K],
whose rows are N(0, I).

The features of a token depend on nothing else. Some implementations subtract
the maximum over all keys from the exponents, and with it look at later tokens.
It is not needed: w · k' - |k'|² / 2 = |w|² / 2 - |w - k'|² / 2 is bounded, by
about K / 2. At K = 64 no sum over keys overflows float32; at K = 128 it takes
keys of |k| > 20 that point along one w. From |k| = 45 or so, all features of a
key underflow to zero.
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
  """Samples the directions W that random features project on.

  Each row is from N(0, I). Independent rows make one estimator; rows that are
  orthogonal within blocks of K, with lengths that are redrawn (χ with K degrees
  of freedom), one as unbiased but with less variance.

  Args:
    key: PRNG key.
    num_features: M; any number, also more than K.
    head_dim: K.
    orthogonal: Whether the rows of a block are orthogonal.

  Returns:
    W, [M, K], float32: computations of any precision have the same features.

  Raises:
    ValueError: If a size is no positive integer, or `key` not one PRNG key.

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
  # Any orthogonal matrix is as likely as another only if R's diagonal is > 0.
  q *= jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None]
  directions = q.reshape(-1, head_dim)[:num_features]
  lengths = jnp.linalg.norm(
    normal(length_key, directions.shape), axis=1, keepdims=True
  )
  return lengths * directions


def positive_random_features(x: jax.Array, projection: jax.Array) -> jax.Array:
  """Maps keys to the features φ of the head of this file.

  Args:
    x: [..., K], float. Keys.
    projection: [M, K], see `sample_projection`.

  Returns:
    [..., M], dtype of `x`; computed in float32 or wider. Positive until exp
    underflows.

  Raises:
    ValueError: If the K of `x` and of `projection` differ, or `x` is not
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
  """Maps queries to the features φ, each query's divided by the largest.

  A factor of one query is in numerator and normaliser of its attention and
  cancels, so that |x'|² need not be formed and no length of x overflows. Linear
  attention has to run with eps = 0, or the factor would not cancel.

  Args:
    x: [..., K], float. Queries.
    projection: [M, K], that of the keys.

  Returns:
    [..., M], dtype of `x`; the largest feature of each query is 1 / √M.

  Raises:
    ValueError: If the K of `x` and of `projection` differ, or `x` is not
      floating-point.
  """
  x = jnp.asarray(x)
  _, exponent = _project(x, projection)
  largest = exponent.max(-1, keepdims=True)
  return _features(exponent - jax.lax.stop_gradient(largest), x.dtype)


def _project(x, projection):
  """x' = x / K^¼, and W x', in float32 or wider."""
  projection = jnp.asarray(projection)
  check_float("x", x)
  if projection.ndim != 2:
    raise ValueError(
      f"projection must have shape [M, K], got {projection.shape}"
    )
  head_dim = projection.shape[-1]
  if x.shape[-1:] != (head_dim,):
    raise ValueError(
      f"x must have shape [..., K={head_dim}] as the projection has, got "
      f"{x.shape}"
    )
  dtype = at_least_float32(x.dtype)
  scaled = x.astype(dtype) * head_dim**-0.25
  exponent = jnp.einsum(
    "...k,mk->...m",
    scaled,
    projection.astype(dtype),
    # The exponential would make of an error of TF32 one of 1e-3.
    precision=jax.lax.Precision.HIGHEST,
  )
  return scaled, exponent


def _features(exponent, dtype):
  return (jnp.exp(exponent) / exponent.shape[-1] ** 0.5).astype(dtype)
