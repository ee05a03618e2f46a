"""Slices of arrays of which some axes have length 1 and broadcast."""

from typing import Any

import jax


def take(x: jax.Array, start: Any, size: int, axis: int) -> jax.Array:
  """Cuts a piece out of an axis, or leaves one of length 1 to broadcast."""
  if x.shape[axis] == 1:
    return x
  return jax.lax.dynamic_slice_in_dim(
    x, start, size, axis, allow_negative_indices=False
  )
