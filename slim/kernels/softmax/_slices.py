"""Slices that leave axes of length 1 to broadcast."""

import jax
import jax.numpy as jnp


def slice_or_broadcast(
  x: jax.Array, start: jax.Array | int, size: int, axis: int
) -> jax.Array:
  """Slices an axis; leaves one of length 1 as it is.

  Args:
    x: The array.
    start: First index of the slice.
    size: Its length.
    axis: The axis.

  Returns:
    The slice.
  """
  if x.shape[axis] == 1:
    return x
  return jax.lax.dynamic_slice_in_dim(
    x, start, size, axis, allow_negative_indices=False
  )


def add_to_slice(
  total: jax.Array, x: jax.Array, starts: dict[int, jax.Array | int]
) -> jax.Array:
  """Adds `x` to a slice of `total`.

  Args:
    total: The array.
    x: What to add, with the shape of the slice.
    starts: First index of the slice on some axes, 0 on the others. It is
      ignored on axes of length 1.

  Returns:
    The array with the sum, in its own dtype.
  """
  start = [
    jnp.int32(starts.get(axis, 0) if length > 1 else 0)
    for axis, length in enumerate(total.shape)
  ]
  old = jax.lax.dynamic_slice(total, start, x.shape)
  return jax.lax.dynamic_update_slice(total, old + x.astype(total.dtype), start)
