"""Chunks cover a sequence exactly once, the short one first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.kernels.chunks import Chunks

# Each new shape compiles anew, so these are few.
any_cut = given(
  length=st.integers(1, 9), size=st.integers(1, 11), axis=st.integers(0, 1)
)


@settings(max_examples=20)
@any_cut
def test_the_pieces_cover_the_sequence_once(length, size, axis):
  """Tokens would be lost or seen twice, or the remainder would not be first."""
  x = np.moveaxis(np.broadcast_to(np.arange(length), (2, 3, length)), -1, axis)
  chunks = Chunks.of(x, size, axis)
  pieces = [chunks.first(x)]
  pieces += [chunks.later(x, i) for i in range(chunks.num_later)]
  np.testing.assert_array_equal(np.concatenate(pieces, axis), x)
  first, *later = (piece.shape[axis] for piece in pieces)
  assert 1 <= first <= size
  assert all(n == size for n in later)


@settings(max_examples=20)
@any_cut
def test_unstack_undoes_the_cut(length, size, axis):
  """Outputs and cotangents would come back out of order."""
  shape = (length, 3) if axis == 0 else (3, length)
  n = jnp.arange(3 * length)
  xs = {"n": n.reshape(shape), "x": n.reshape(*shape, 1) / 7}
  chunks = Chunks.of(xs, size, axis)
  later = chunks.stack_later(xs)
  for i in range(chunks.num_later):
    stacked = jax.tree.map(lambda x, i=i: x[i], later)
    jax.tree.map(np.testing.assert_array_equal, stacked, chunks.later(xs, i))
  whole = chunks.unstack(chunks.first(xs), later)
  jax.tree.map(np.testing.assert_array_equal, whole, xs)
  after_first = jax.tree.map(
    lambda x: np.split(x, [chunks.first_size], axis)[1], xs
  )
  found = chunks.unstack(None, later)
  jax.tree.map(np.testing.assert_array_equal, found, after_first)


def test_the_first_chunk_can_be_cut_at_an_index_known_later():
  """The backward pass could not make the first chunk wait for its loop."""
  x = jnp.arange(7)[None]
  chunks = Chunks.of(x, 3, 1)
  assert jax.jit(chunks.first)(x, 0).tolist() == [[0]]
  # `scan` says 0 with -1, too, which must not count from the end.
  assert jax.jit(chunks.first)(x, -1).tolist() == [[0]]


def test_a_chunk_as_long_as_the_sequence_is_the_only_one():
  """A chunk size above T would pad or fail, where it is simply dense."""
  assert Chunks.of(jnp.zeros((2, 5)), 5, 1) == (5, 5, 0, 1)
  assert Chunks.of(jnp.zeros((2, 5)), 9, 1) == (5, 9, 0, 1)


def test_any_integer_type_is_a_size():
  """A chunk size out of numpy arithmetic would be refused."""
  assert Chunks.of(jnp.zeros((2, 5)), np.int64(2), 1) == (1, 2, 2, 1)


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True, None])
def test_a_bad_size_is_refused(size):
  """True would mean 1, and 0 a division by zero far from its cause."""
  message = f"chunk_size must be a positive integer, got {size!r}$"
  with pytest.raises(ValueError, match=message):
    Chunks.of(jnp.zeros((2, 5)), size, 1)


@pytest.mark.parametrize(
  ("xs", "axis", "message"),
  [
    (
      {"a": np.zeros((2, 5)), "b": np.zeros((2, 6))},
      1,
      r"common number of tokens.* axis 1; got xs\['a'\] has 5, xs\['b'\] has 6",
    ),
    (np.zeros((2, 0)), 1, "at least 1, along axis 1; got xs has 0"),
    ({}, 1, "got no arrays"),
    (np.zeros((2, 5)), 2, r"xs must have a time axis 2, got shape \(2, 5\)"),
    (np.zeros((2, 5)), -1, r"xs must have a time axis -1, got shape \(2, 5\)"),
    ([np.zeros(3)], 1, r"xs\[0\] must have a time axis 1, got shape \(3,\)"),
  ],
  ids=["lengths", "empty", "nothing", "axis", "negative axis", "rank"],
)
def test_what_cannot_be_cut_is_refused(xs, axis, message):
  """A user would not learn which of the arrays is wrong, and how."""
  with pytest.raises(ValueError, match=message):
    Chunks.of(xs, 2, axis)
