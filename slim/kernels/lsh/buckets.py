"""Locality-sensitive hashing: near vectors often fall into the same bucket.

A vector is rotated at random. Its bucket is the nearest signed axis:

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
  """Hashes each vector R times, with new rotations each time.

  If the number of buckets n is above 64, a bucket is a pair of two hashes with
  even n_1 and n_2 buckets, both near √n: O(T √n) work and memory instead of
  O(T n). If no such product n_1 · n_2 equals n, the next larger product is
  used, and its first buckets are merged in pairs.

  Args:
    x: [B, T, H, K], float. The length of the vectors does not matter.
    key: PRNG key of the rotations, which all heads and sequences share.
    num_buckets: Even, at most 2³⁰.
    num_hashes: R.

  Returns:
    [B, H, R, T], the smallest unsigned integer type that holds
    `num_buckets - 1`. It has no gradient.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value.

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
  for factor, factor_key in zip(factors, keys, strict=True):
    shape = (x.shape[-1], num_hashes, factor // 2)
    # Drawn in float32, so that x has the same hash in any precision.
    rotations = normal(factor_key, shape).astype(x.dtype)
    digit = jax.lax.map(
      functools.partial(_nearest, x), jnp.moveaxis(rotations, 1, 0)
    )
    buckets = buckets * factor + digit
  # Merges 2i and 2i + 1, which differ in the second hash only.
  buckets -= jnp.minimum((buckets + 1) // 2, math.prod(factors) - num_buckets)
  return jnp.moveaxis(buckets, 0, 2).astype(smallest_unsigned(num_buckets - 1))


def _nearest(x, rotation):
  """Finds which of ± `rotation`, [K, n], is nearest to each of [B, T, H, K]."""
  rotated = jnp.einsum("bthk,kn->bhtn", x, rotation)
  # argmax [x; -x], without concatenating them.
  top, bottom = jnp.argmax(rotated, -1), jnp.argmin(rotated, -1)
  is_top = rotated.max(-1) >= -rotated.min(-1)
  return jnp.where(is_top, top, bottom + rotation.shape[-1]).astype(jnp.int32)


def _factors(num_buckets):
  """Returns one or two even numbers with product `num_buckets` or a bit more.

  The larger is at most 2 √num_buckets. Some counts, such as 2 · 521, have no
  factors near their root, so two exact factors would save no work.
  """
  # A single hash is finer than a pair, and cheap enough for few buckets.
  if num_buckets <= 64:
    return [num_buckets]
  pairs = [
    (low, 2 * -(-num_buckets // (2 * low)))
    for low in range(2, math.isqrt(num_buckets) + 1, 2)
    if 3 * low**2 >= num_buckets
  ]
  # Among the smallest products, the pair with the most similar factors.
  return min(pairs, key=lambda pair: (math.prod(pair), -pair[0]))
