"""Chunks cover a sequence exactly once, the short one first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.kernels.chunk_scan.chunks import Chunks

any_cut = given(
  length=st.integers(1, 9), size=st.integers(1, 11), axis=st.integers(0, 1)
)


@settings(max_examples=20)
@any_cut
def test_the_pieces_cover_the_sequence_once(length, size, axis):
  """Tokens would be lost or seen twice, or the remainder would not be first."""
  x = np.moveaxis(np.broadcast_to(np.arange(length), (2, 3, length)), -1, axis)
  chunks = Chunks.of(x, size, axis)

  @jax.jit
  def cut(x):
    later = [chunks.later(x, i) for i in range(chunks.num_later)]
    return [chunks.first(x), *later]

  pieces = cut(x)
  np.testing.assert_array_equal(np.concatenate(pieces, axis), x)
  first, *later = (piece.shape[axis] for piece in pieces)
  assert 1 <= first <= size
  assert all(n == size for n in later)


def check_unstack(length, size, axis):
  """Cuts and joins arrays in one program, and compares."""
  shape = (length, 3) if axis == 0 else (3, length)
  n = np.arange(3 * length)
  xs = {"n": n.reshape(shape), "x": n.reshape(*shape, 1) / 7}
  xs["empty"] = np.zeros((*shape, 0))
  chunks = Chunks.of(xs, size, axis)

  @jax.jit
  def cut_and_join(xs):
    later = chunks.stack_later(xs)
    whole = chunks.unstack(chunks.first(xs), later)
    return later, whole, chunks.unstack(None, later)

  xs = jax.tree.map(jnp.asarray, xs)
  later, whole, rest = cut_and_join(xs)
  _, after_first = jax.tree.transpose(
    jax.tree.structure(xs),
    jax.tree.structure((0, 0)),
    jax.tree.map(lambda x: tuple(np.split(x, [chunks.first_size], axis)), xs),
  )
  for name, x in after_first.items():
    pieces = np.split(x, chunks.num_later, axis) if chunks.num_later else []
    np.testing.assert_array_equal(later[name], pieces or later[name][:0])
  jax.tree.map(np.testing.assert_array_equal, whole, xs)
  jax.tree.map(np.testing.assert_array_equal, rest, after_first)


@pytest.mark.parametrize(
  ("length", "size", "axis"), [(7, 3, 1), (6, 2, 0), (3, 5, 1)]
)
def test_unstack_undoes_the_cut(length, size, axis):
  """Outputs and cotangents would come back out of order."""
  check_unstack(length, size, axis)


@pytest.mark.slow
@settings(max_examples=40)
@any_cut
def test_unstack_undoes_any_cut(length, size, axis):
  """Some length or chunk size would come back out of order."""
  check_unstack(length, size, axis)


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
      r"common number of tokens.* axis 1, got xs\['a'\] has 5, xs\['b'\] has 6",
    ),
    (
      {"a": np.zeros((2, 0))},
      1,
      r"xs\['a'\] must have at least 1 token along axis 1, got none: skip",
    ),
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
