"""Residuals of differentiation, and estimates of activations."""

import jax
import jax.numpy as jnp
import pytest

from slim.plan.gradient_choice import GradientChoice
from slim.plan.memory_estimate import (
  Residuals,
  count_residuals,
  estimate_activations,
)

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
    (lambda x: x * jnp.float32(2).reshape(1, 1), [X], 4, 4),  # A constant.
    (
      lambda x: jax.lax.platform_dependent(
        x, cpu=jnp.sin, default=lambda x: jnp.sin(jnp.sin(x))
      ),
      [X],
      2048 + 4,  # Also which platform it is.
      1024,
    ),
  ],
)
def test_residuals(fn, args, total, largest):
  """Fails if arguments or views count, or forward results do not."""
  assert count_residuals(fn, *args) == Residuals(total, largest)


@pytest.mark.parametrize(
  ("choice", "by_scan", "size"),
  [
    (GradientChoice("full", None, None, False), False, 100 + 3 * 20),
    (
      GradientChoice("slim", 4, "rewind", False),
      False,
      160 + 64 + 2 * 7 + 8 * 3,
    ),
    (GradientChoice("slim", 4, "store", False), False, 160 + 64 + 10 * 7 + 5),
    (GradientChoice("slim", 4, "sqrt", False), False, 160 + 64 + 7 * 7 + 5),
    (GradientChoice("slim", 4, "sqrt", False), True, 160 + 64 + 7 * 7 + 5 + 68),
  ],
)
def test_activations_by_policy(choice, by_scan, size):
  """Fails if a policy counts the states or gradients of another."""
  params = [jnp.zeros(16), jnp.zeros(1)]
  found = estimate_activations(
    choice,
    residuals=Residuals(100, 20),
    state_bytes=7,
    kept_bytes=3,
    sequence_bytes=5,
    num_chunks=9,
    params=params,
    by_scan=by_scan,
  )
  assert found == size
