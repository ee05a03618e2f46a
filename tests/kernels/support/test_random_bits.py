"""Random numbers depend only on (key, counter), for all kinds of keys."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import lsh_buckets, sample_projection
from slim.kernels.support.random_bits import (
  check_keys,
  fold_in,
  normal,
  split,
  uniform,
)

IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]
N = 5


def test_hash_is_threefry():
  """Fails if runs draw other numbers than before this version.

  The words are the known answer of Salmon et al. for zeros.
  """
  key = fold_in(jnp.zeros(2, jnp.uint32), 0)
  words = jax.random.key_data(key).tolist()
  assert words == [0x6B200159, 0x99BA4EFE]


def test_default_keys_draw_like_jax():
  """Fails if runs start and drop differently than before this version."""

  @jax.jit
  def draw_pairs(key):
    return [
      (fold_in(key, 2**32 - 1), jax.random.fold_in(key, 2**32 - 1)),
      (split(key, N), jax.random.split(key, N)),
      (uniform(key, jnp.arange(N)), jax.random.uniform(key, N)),
      (normal(key, (3, N)), jax.random.normal(key, (3, N), jnp.float32)),
      # Raw keys have their words along the last axis.
      (split(key, N), split(jax.random.key_data(key), N)),
    ]

  with jax.threefry_partitionable(True):
    pairs = draw_pairs(jax.random.key(3))
  for found, right in pairs:
    np.testing.assert_array_equal(*map(bits_of, (found, right)))


def bits_of(x):
  """An array of floats or keys, to compare bits."""
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  return np.asarray(x).view(np.uint32)


@jax.jit
def draw(key):
  """Both kinds of draws: keys and numbers."""
  return jax.random.key_data(split(key, N)), normal(key, (N,))


def draw_by_one(keys):
  """What each key draws, one after the other."""
  return [np.stack(x) for x in zip(*map(draw, keys), strict=True)]


@functools.cache
def keys_and_draws(impl):
  """Three keys, what they draw, and the last of N numbers of each."""
  keys = [jax.random.key(i, impl=impl) for i in range(3)]

  @jax.jit
  def draw_all(keys):
    return uniform(keys[:, None], jnp.arange(N)[None])[:, -1]

  batch = jnp.stack(keys)
  return batch, [*draw_by_one(keys), draw_all(batch)]


@jax.jit
def draw_at_once(keys):
  """The same for all keys at once; the last number by its counter alone."""
  return *jax.vmap(draw)(keys), uniform(keys, jnp.uint32(N - 1))


@pytest.mark.parametrize(
  "settings",
  [{}, {"enable_x64": True}, {"threefry_partitionable": False}],
  ids=str,
)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_draws_depend_only_on_the_key(impl, settings):
  """Fails if they change with the batch, the chunk or a setting of JAX."""
  keys, right = keys_and_draws(impl)
  with contextlib.ExitStack() as stack:
    for name, value in settings.items():
      stack.enter_context(getattr(jax, name)(value))
    found = draw_at_once(keys)
  for one, other in zip(found, right, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_every_word_of_a_key_matters(impl):
  """Fails if two keys draw the same numbers.

  The two halves of jax.random.key(0, impl="rbg") are equal, so their sum or
  difference would ignore the seed.
  """

  @jax.jit
  def numbers_of(words):
    return uniform(jax.random.wrap_key_data(words, impl=impl), jnp.arange(N))

  words = np.asarray(jax.random.key_data(jax.random.key(0, impl=impl)))
  changed = [words, *(words + np.eye(words.size, dtype=np.uint32))]
  drawn = {bits_of(numbers_of(x)).tobytes() for x in changed}
  assert len(drawn) == 1 + words.size


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_constants_depend_only_on_the_key(impl):
  """Fails if a batch is hashed or projected differently than its rows."""
  keys = jax.random.split(jax.random.key(0, impl=impl), 2)
  x = np.random.default_rng(0).normal(size=(2, 1, 7, 2, 8)).astype("float32")

  @jax.jit
  def draw(key, x):
    projection = sample_projection(key, 12, 8)
    return projection, lsh_buckets(x, key, num_buckets=68, num_hashes=2)

  found = jax.vmap(draw)(keys, x)
  with jax.enable_x64(True):
    right = [draw(keys[i], x[i].astype("float64")) for i in range(2)]
  for one, other in zip(found, zip(*right, strict=True), strict=True):
    np.testing.assert_allclose(one, np.stack(other), rtol=1e-5)


@pytest.mark.parametrize(
  ("key", "found"),
  [
    (3, "3"),
    (np.ones(2), r"float64\[2\]"),
    (np.uint32(3), r"uint32\[\]"),
    (jax.random.split(jax.random.key(0), 3), r"\(3,\)"),
  ],
  ids=["a seed", "floats", "no words", "several"],
)
def test_non_keys_are_refused(key, found):
  """Fails if the error is about the shape of an array of bits."""
  message = f"^key must be .*PRNG key.*, got {found}$"
  with pytest.raises(ValueError, match=message):
    sample_projection(key, 4, 2)


def test_batch_of_keys_is_checked():
  """Fails if sequences share what they drop."""
  keys = jax.random.split(jax.random.key(0), 3)
  check_keys("keys", keys, (3,))
  with pytest.raises(ValueError, match=r"keys must be PRNG .* \(2,\), got"):
    check_keys("keys", keys, (2,))
