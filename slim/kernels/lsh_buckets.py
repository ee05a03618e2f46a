"""Locality-sensitive hashing: near vectors fall into the same bucket, often.

A vector is rotated at random and falls into the bucket of the axis, and of the
direction on it, that it is nearest to:

  bucket(x) = argmax [x R; -x R],   R: [K, num_buckets / 2], normal.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.dtypes import at_least_float32
from slim.kernels.random_bits import check_keys, normal, split
from slim.kernels.shapes import check_positive_int, check_shape


def lsh_buckets(
  x: jax.Array, key: jax.Array, *, num_buckets: int, num_hashes: int
) -> jax.Array:
  """Hashes each vector `num_hashes` times, with other rotations each time.

  Many buckets are pairs of two hashes, (bucket of n_1, bucket of n_2) with
  n_1 · n_2 = num_buckets, as near to each other as can be: for a length T that
  is O(T √(num_buckets)) work in place of O(T num_buckets).

  Args:
    x: [B, T, H, K], float. Its length does not matter.
    key: PRNG key of the rotations, which all heads and sequences share.
    num_buckets: Even.
    num_hashes: R.

  Returns:
    [B, H, R, T], the smallest unsigned integer that holds `num_buckets`. No
    derivative passes.

  Raises:
    ValueError: If an argument has another shape or range.

  References:
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451, section 2;
    Andoni et al., 2015, https://arxiv.org/abs/1509.02897.
  """
  check_shape("x", x, "BTHK", {})
  check_keys("key", key, ())
  num_hashes = check_positive_int("num_hashes", num_hashes)
  num_buckets = check_positive_int("num_buckets", num_buckets)
  if num_buckets % 2:
    raise ValueError(f"num_buckets must be even, got {num_buckets}")
  factors = _factors(num_buckets)
  dtype = at_least_float32(x.dtype)
  x = jax.lax.stop_gradient(x).astype(dtype)
  buckets = 0
  keys = split(key, len(factors))
  for factor, its_key in zip(factors, keys, strict=True):
    shape = (x.shape[-1], num_hashes, factor // 2)
    # In float32 for any x, which is hashed alike in any precision.
    rotations = normal(its_key, shape).astype(dtype)
    digit = jax.lax.map(
      functools.partial(_nearest, x), jnp.moveaxis(rotations, 1, 0)
    )
    buckets = buckets * factor + digit
  return jnp.moveaxis(buckets, 0, 2).astype(_smallest(num_buckets))


def _nearest(x, rotation):
  """Of [B, T, H, K]: which of the vectors ± `rotation` [K, n] is nearest."""
  rotated = jnp.einsum("bthk,kn->bhtn", x, rotation)
  # argmax [x; -x] without the array of both.
  top, bottom = jnp.argmax(rotated, -1), jnp.argmin(rotated, -1)
  is_top = rotated.max(-1) >= -rotated.min(-1)
  return jnp.where(is_top, top, bottom + rotation.shape[-1])


def _factors(num_buckets):
  """Two even factors, as near to each other as can be; or the number alone."""
  low = [
    n
    for n in range(2, int(np.sqrt(num_buckets)) + 1, 2)
    if num_buckets % n == 0 and num_buckets // n % 2 == 0
  ]
  # A pair of hashes is coarser where few buckets make one good enough.
  if num_buckets <= 64 or not low:
    return [num_buckets]
  return [low[-1], num_buckets // low[-1]]


def _smallest(count):
  """The smallest unsigned type whose numbers count so far."""
  return next(
    dtype
    for dtype in (jnp.uint8, jnp.uint16, jnp.uint32)
    if count <= jnp.iinfo(dtype).max + 1
  )
