"""Activations of the Reformer, in bytes of the compiled gradient."""

import functools

import jax
import pytest

from slim.models import create_model
from tests.helpers import AS_USERS
from tests.models.small import temporary_bytes

LSH = {
  "attention": "lsh",
  "norm": "pre",
  "num_layers": 2,
  "num_hashes": 2,
  "heads_at_once": 2,
  "mlp_chunk_size": 128,
  "reversible": True,
}
STREAM = 2048 * 128 * 4  # Bytes.


@functools.cache
def activations(compiler_options=(), **settings):
  """Bytes of activations of 2048 tokens of width 128."""
  model = create_model(
    vocab_size=256,
    width=128,
    num_heads=4,
    mlp_width=256,
    bucket_size=32,
    frozen_key=jax.random.key(0),
    positions="sinusoidal",
    **settings,
  )
  return temporary_bytes(model, 2048, compiler_options, method="full")


def activations_as_users(**settings):
  """The same of the program that users get."""
  return activations(tuple(AS_USERS.items()), **settings)


def test_memory_of_a_reformer():
  """All heads would be there at once, or something of each layer."""
  # Two heads at once take 23 streams, and a layer keeps at least its input.
  assert activations(**LSH | {"heads_at_once": 1}) <= 18.3 * STREAM


@pytest.mark.parametrize("attention", ["chunked_softmax", "local"])
def test_memory_of_blocks(attention):
  """All pairs of tokens would be there: 64 streams of probabilities."""
  found = activations(attention=attention, num_layers=1, window=64)
  assert found <= 32 * STREAM


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings", [LSH, {"attention": "softmax", "reversible": True}], ids=str
)
def test_memory_does_not_grow_with_the_depth(settings):
  """Something of each layer would be kept, if only its input."""
  few, more = (
    activations_as_users(**settings | {"num_layers": count}) for count in (2, 3)
  )
  assert more - few <= STREAM / 8, (few, more)


@pytest.mark.slow
def test_memory_hardly_grows_with_the_rounds():
  """More rounds would be for short sequences."""
  few, many = (
    activations_as_users(**LSH | {"num_hashes": count}) for count in (2, 8)
  )
  # The buckets of the tokens, and their places and order while they are needed.
  assert many - few <= 8 * 6 * 4 * 2048, (few, many)
  assert many <= 1.025 * few


@pytest.mark.slow
def test_memory_is_that_of_the_heads_at_once():
  """All heads would be there at once, or all that is made of a norm."""
  one, two = (
    activations_as_users(**LSH | {"heads_at_once": count}) for count in (1, 2)
  )
  assert one <= 0.8 * two, (one, two)
  assert one <= 18.3 * STREAM, one / STREAM
