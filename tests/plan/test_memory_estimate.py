"""What differentiation keeps, counted."""

import jax
import jax.numpy as jnp
import pytest

from slim.plan.memory_estimate import (
  Kept,
  activation_bytes,
  kept,
)
from slim.plan.options import Option

X = jax.ShapeDtypeStruct((8, 32), jnp.float32)
W = jax.ShapeDtypeStruct((32, 16), jnp.float32)


@pytest.mark.parametrize(
  ("fn", "args", "total", "largest"),
  [
    (jnp.sin, [X], 1024, 1024),  # The cosine.
    (lambda x, w: x @ w, [X, W], 0, 0),  # Its arguments.
    (lambda x, w: jnp.sin(x @ w), [X, W], 512, 512),
    (lambda x: jnp.sin(jnp.sin(x)), [X], 2048, 1024),
    # Two views of one array.
    (
      lambda x, w: (jnp.exp(x).T @ jnp.exp(x), jnp.exp(x) @ w),
      [X, W],
      3072,
      1024,
    ),
    (lambda x: x + 1, [X], 0, 0),
  ],
)
def test_what_is_kept_is_counted(fn, args, total, largest):
  """Arguments or views would count, or results of the forward pass not."""
  assert kept(fn, *args) == Kept(total, largest)


@pytest.mark.parametrize(
  ("option", "size"),
  [
    (Option("full", None, None, False), 100 + 3 * 20),
    (Option("slim", 4, "rewind", False), 160 + 64 + 2 * 7),
    (Option("slim", 4, "store", False), 160 + 64 + 10 * 7 + 5),
    (Option("slim", 4, "sqrt", False), 160 + 64 + 7 * 7 + 5 + 68),
  ],
)
def test_what_is_there_is_added_up(option, size):
  """A policy would seem to keep the states, or sums, of another."""
  params = [jnp.zeros(16), jnp.zeros(1)]
  found = activation_bytes(
    option,
    kept=Kept(100, 20),
    state_bytes=7,
    sequence_bytes=5,
    num_chunks=9,
    params=params,
  )
  assert found == size
