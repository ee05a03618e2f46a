"""Locality-sensitive hashing: near vectors fall into the same bucket, often.

A vector is rotated at random and falls into the bucket of the axis, and of the
direction on it, that it is nearest to:

  bucket(x) = argmax [x R; -x R],   R: [K, num_buckets / 2], normal.
"""

import functools
import math

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import (
  at_least_float32,
  smallest_unsigned,
)
from slim.kernels.support.random_bits import (
  check_keys,
  normal,
  split,
)
from slim.kernels.support.shapes import (
  check_float,
  check_positive_int,
  check_shape,
)


def lsh_buckets(
  x: jax.Array, key: jax.Array, *, num_buckets: int, num_hashes: int
) -> jax.Array:
  """Hashes each vector `num_hashes` times, with other rotations each time.

  More than 64 buckets n are pairs of two hashes, (bucket of n_1, bucket of n_2)
  with even n_1 and n_2 near √n: O(T √n) work and memory in place of O(T n).
  If no such n_1 · n_2 is n, the next larger is, and its first buckets are
  merged, two to one.

  Args:
    x: [B, T, H, K], float. Its length does not matter.
    key: PRNG key of the rotations, which all heads and sequences share.
    num_buckets: Even, at most 2³⁰.
    num_hashes: R.

  Returns:
    [B, H, R, T], the smallest unsigned integer that holds `num_buckets`. No
    derivative passes.

  Raises:
    ValueError: If an argument has another shape, type or range.

  References:
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451, section 2;
    Andoni et al., 2015, https://arxiv.org/abs/1509.02897.
  """
  x = jnp.asarray(x)
  check_shape("x", x, "BTHK", {})
  check_float("x", x)
  check_keys("key", key, ())
  num_hashes = check_positive_int("num_hashes", num_hashes)
  num_buckets = check_positive_int("num_buckets", num_buckets)
  if num_buckets % 2 or num_buckets > 2**30:
    raise ValueError(
      f"num_buckets must be even and at most 2^30, got {num_buckets}"
    )
  factors = _factors(num_buckets)
  x = jax.lax.stop_gradient(x).astype(at_least_float32(x.dtype))
  buckets = jnp.int32(0)
  keys = split(key, len(factors))
  for factor, its_key in zip(factors, keys, strict=True):
    shape = (x.shape[-1], num_hashes, factor // 2)
    # In float32 for any x, which is hashed alike in any precision.
    rotations = normal(its_key, shape).astype(x.dtype)
    digit = jax.lax.map(
      functools.partial(_nearest, x), jnp.moveaxis(rotations, 1, 0)
    )
    buckets = buckets * factor + digit
  # Buckets 2i and 2i + 1 differ in the second hash alone.
  buckets -= jnp.minimum((buckets + 1) // 2, math.prod(factors) - num_buckets)
  return jnp.moveaxis(buckets, 0, 2).astype(smallest_unsigned(num_buckets - 1))


def _nearest(x, rotation):
  """Of [B, T, H, K]: which of the vectors ± `rotation` [K, n] is nearest."""
  rotated = jnp.einsum("bthk,kn->bhtn", x, rotation)
  # argmax [x; -x] without the array of both.
  top, bottom = jnp.argmax(rotated, -1), jnp.argmin(rotated, -1)
  is_top = rotated.max(-1) >= -rotated.min(-1)
  return jnp.where(is_top, top, bottom + rotation.shape[-1]).astype(jnp.int32)


def _factors(num_buckets):
  """One or two even numbers whose product is `num_buckets`, or a bit more.

  The larger is at most 2 √num_buckets: some counts, such as 2 · 521, have no
  factors near their root, and hashing would cost as much as one hash into all.
  """
  # A pair of hashes is coarser where few buckets make one good enough.
  if num_buckets <= 64:
    return [num_buckets]
  pairs = [
    (low, 2 * -(-num_buckets // (2 * low)))
    for low in range(2, math.isqrt(num_buckets) + 1, 2)
    if 3 * low**2 >= num_buckets
  ]
  # Of those nearest to the count, the pair nearest to each other.
  return min(pairs, key=lambda pair: (math.prod(pair), -pair[0]))
