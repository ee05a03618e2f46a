"""Slices that leave axes of length 1 to broadcast."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Index = jax.Array | int


def slice_or_broadcast(
  x: jax.Array, starts: Mapping[int, Index], sizes: Mapping[int, int]
) -> jax.Array:
  """Slices some axes; leaves those of length 1 as they are.

  Args:
    x: The array.
    starts: First index of the slice on these axes.
    sizes: The lengths of the slice on the same axes.

  Returns:
    The slice.
  """
  shape = [
    sizes.get(axis, length) if length > 1 else length
    for axis, length in enumerate(x.shape)
  ]
  if tuple(shape) == x.shape:
    return x
  return jax.lax.dynamic_slice(
    x, _first(x, starts), shape, allow_negative_indices=False
  )


def set_slice(
  whole: jax.Array, x: jax.Array, starts: Mapping[int, Index]
) -> jax.Array:
  """Replaces a slice of `whole` by `x`.

  Args:
    whole: The array.
    x: The new values, with the shape of the slice.
    starts: First index of the slice on some axes, 0 on the others. It is
      ignored on axes of length 1.

  Returns:
    The array with the new values, in its own dtype.
  """
  return jax.lax.dynamic_update_slice(
    whole,
    x.astype(whole.dtype),
    _first(whole, starts),
    allow_negative_indices=False,
  )


def add_to_slice(
  total: jax.Array, x: jax.Array, starts: Mapping[int, Index]
) -> jax.Array:
  """Adds `x` to a slice of `total`; the arguments are those of `set_slice`."""
  old = jax.lax.dynamic_slice(
    total, _first(total, starts), x.shape, allow_negative_indices=False
  )
  return set_slice(total, old + x.astype(total.dtype), starts)


def _first(x, starts):
  return [
    jnp.int32(starts.get(axis, 0) if length > 1 else 0)
    for axis, length in enumerate(x.shape)
  ]
