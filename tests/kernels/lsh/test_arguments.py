"""LSH attention and buckets refuse wrong arguments in one line."""

import functools

import jax
import numpy as np
import pytest

from slim.kernels import lsh_attention, lsh_buckets
from tests.kernels.lsh.cases import H, V, by_rounds, hashed, make_inputs


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"qk": (2, 3, 4)}, r"qk must have shape \[B, T, H, K\], got \(2, 3, 4\)"),
    (
      {"v": (2, 6, 3, 4)},
      r"v must have shape .*T=5.*\(2, 6, 3, 4\)",
    ),
    ({"buckets": (2, 3, 1, 6)}, r"buckets must have shape .* got \(2, 3, 1, 6"),
    ({"chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
    ({"heads_at_once": 2}, "heads_at_once must divide H = 3, got 2"),
    ({"heads_at_once": 0}, "heads_at_once must be a positive integer, got 0"),
    ({"rounds": "all"}, r"rounds must be one of .*'parallel'\), got 'all'"),
    ({"is_causal": "no"}, "is_causal must be True or False, got 'no'"),
    ({"count_once": 1}, "count_once must be True or False, got 1"),
    ({"scale": np.ones(2)}, r"scale must be a number.* of shape \(2,\)"),
    ({"scale": "1"}, r"scale must be a number.* got '1'"),
    ({"scale": 1j}, r"scale must be a number.* got 1j"),
  ],
)
def test_wrong_arguments_are_refused(changes, message):
  """Fails if the error comes from inside a loop, or if there is none."""
  arguments = {
    "qk": (2, 5, 3, 4),
    "v": (2, 5, 3, 4),
    "buckets": (2, 3, 1, 5),
    "chunk_size": 2,
  } | changes
  for name, dtype in (
    ("qk", "float32"),
    ("v", "float32"),
    ("buckets", "uint8"),
  ):
    arguments[name] = np.zeros(arguments[name], dtype)
  with pytest.raises(ValueError, match=message) as e:
    lsh_attention(**arguments)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"x": np.ones((1, 2, 1, 3), int)}, "x must be floating-point, got int"),
    ({"num_buckets": 7}, "num_buckets must be even .*, got 7"),
    ({"num_buckets": 2**31}, r"num_buckets must be .* at most 2\^30, got 2147"),
    ({"num_hashes": 0}, "num_hashes must be a positive integer, got 0"),
  ],
  ids=str,
)
def test_wrong_hashes_are_refused(changes, message):
  """Fails if bucket numbers overflow, or if the error comes from inside."""
  arguments = {
    "x": np.ones((1, 2, 1, 3), np.float32),
    "key": jax.random.key(0),
    "num_buckets": 4,
    "num_hashes": 1,
  }
  with pytest.raises(ValueError, match=message):
    lsh_buckets(**arguments | changes)


def test_empty_batch_and_numpy_float64():
  """Fails if the last batch of a dataset fails in a reshape, or warns."""
  arrays = make_inputs(7, batch=0)
  for heads_at_once in (None, 2):
    run = functools.partial(
      by_rounds, chunk_size=3, heads_at_once=heads_at_once
    )
    y, _ = jax.eval_shape(run, *arrays)
    assert (y.shape, y.dtype) == ((0, 7, H, V), "float32")
  y, _ = by_rounds(*arrays, chunk_size=3, heads_at_once=2)
  assert y.shape == (0, 7, H, V)
  assert hashed(arrays[0], jax.random.key(0), 4).shape == (0, H, 2, 7)
