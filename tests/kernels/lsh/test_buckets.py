"""LSH buckets: the nearest axes, and how hashing costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels.lsh.buckets import _factors
from tests.helpers import AS_USERS
from tests.kernels.lsh.cases import hashed


@pytest.mark.parametrize(
  ("num_buckets", "factors", "dtype"),
  [
    (6, [6], "uint8"),
    (64, [64], "uint8"),
    (128, [8, 16], "uint8"),
    (512, [16, 32], "uint16"),
  ],
)
def test_buckets_are_the_nearest_axes(num_buckets, factors, dtype):
  """Fails if a trained model is hashed by other rotations than in training."""
  x = np.random.default_rng(0).normal(size=(2, 50, 3, 8)).astype(np.float32)
  key = jax.random.key(1)
  right = 0
  for n, one in zip(factors, jax.random.split(key, len(factors)), strict=True):
    rotations = jax.random.normal(one, (8, 2, n // 2), jnp.float32)
    rotated = np.einsum("bthk,krn->bhrtn", x, rotations)
    digit = np.argmax(np.concatenate([rotated, -rotated], -1), -1)
    right = right * n + digit
  found = hashed(x, key, num_buckets)
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, right)
  # Only the direction matters, in float64 and float32.
  found = hashed(4 * np.float64(x), key, num_buckets)
  np.testing.assert_array_equal(found, right)


def test_count_without_even_factors_has_as_many_buckets():
  """Fails if most tokens share few buckets, or a bucket is out of range."""
  x = jax.random.normal(jax.random.key(0), (1, 3000, 1, 8))
  found = np.asarray(hashed(x, jax.random.key(1), 74)).ravel()
  count = np.bincount(found, minlength=74)
  assert len(count) == 74  # Of 8 · 10 pairs, twelve share six buckets.
  assert count.min() > 0
  assert count[:6].mean() == pytest.approx(2 * count[6:].mean(), rel=0.3)


def test_two_hashes_of_any_count_cost_the_same():
  """Fails if hashing costs as much as one hash into all buckets."""
  for num_buckets in [*range(66, 3000, 2), 2 * 49999, 10**6, 2**20, 2**30]:
    low, high = _factors(num_buckets)
    assert low % 2 == high % 2 == 0
    assert num_buckets <= low * high <= 1.12 * num_buckets
    assert high <= 1.85 * num_buckets**0.5, (num_buckets, low, high)


@functools.cache
def hashing_costs(length):
  """Temporary bytes and operations of a model's hashes, compiled only."""
  x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
  compiled = hashed.lower(
    x, jax.random.key(0), num_buckets=2 * round(length / 128), num_hashes=2
  ).compile(AS_USERS)
  return (
    compiled.memory_analysis().temp_size_in_bytes,
    compiled.cost_analysis()["flops"],
  )


@pytest.mark.parametrize(
  "length",
  [
    65_664,  # 2 · 3³ · 19 buckets.
    pytest.param(33_536, marks=pytest.mark.slow),  # 4 · 131.
    pytest.param(65_537, marks=pytest.mark.slow),  # Prime.
    pytest.param(66_688, marks=pytest.mark.slow),  # 2 · 521.
    pytest.param(100_000, marks=pytest.mark.slow),  # 2 · 11 · 71.
    pytest.param(100_003, marks=pytest.mark.slow),  # Prime.
    pytest.param(130_944, marks=pytest.mark.slow),  # 2 · 3 · 11 · 31.
  ],
)
def test_hashing_a_neighbouring_length_costs_the_same(length):
  """Fails if one more chunk takes ten times the memory."""
  ends = 32_768, 131_072
  costs = [hashing_costs(n) for n in ends]
  for found, *right in zip(hashing_costs(length), *costs, strict=True):
    assert found <= 1.2 * np.interp(length, ends, right), (found, right)


def test_near_vectors_fall_into_one_bucket():
  """Fails if sorting by bucket does not bring near vectors together."""
  random = np.random.default_rng(0)
  x, noise = random.normal(size=(2, 1, 500, 1, 64)).astype(np.float32)
  of = functools.partial(hashed, key=jax.random.key(2), num_buckets=64)
  assert (of(x) == of(x + 0.05 * noise)).mean() > 0.8
  assert (of(x) == of(-x)).mean() < 0.01
  one, two = np.moveaxis(of(x), 2, 0)
  assert (one != two).mean() > 0.7  # Each round has its own rotations.
