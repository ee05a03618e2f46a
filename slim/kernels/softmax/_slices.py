"""Slices that leave axes of length 1 to broadcast."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

Index = jax.Array | np.ndarray | np.integer | int


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


def slice_heads(
  x: jax.Array, starts: Mapping[int, Index], sizes: Mapping[int, int]
) -> jax.Array:
  """Slices axes 0 to 2 of an array [B, T, H, X]; as `slice_or_broadcast`.

  Heads are sliced as parts of one axis of H·X. With an axis of their own, XLA
  for GPUs transposes all of `x` before a loop that slices it, to save the
  transposition of each slice.
  """
  merged, starts = _merge_heads(x, starts)
  width = x.shape[3]
  lengths = {n: k * width if n == 2 else k for n, k in sizes.items()}
  found = slice_or_broadcast(merged, starts, lengths)
  return found.reshape(*found.shape[:2], found.shape[2] // width, width)


def set_heads(
  whole: jax.Array, x: jax.Array, starts: Mapping[int, Index]
) -> jax.Array:
  """Replaces a slice that `slice_heads` returns; as `set_slice`."""
  merged, starts = _merge_heads(whole, starts)
  x, _ = _merge_heads(x, {})
  return set_slice(merged, x, starts).reshape(whole.shape)


def add_to_heads(
  total: jax.Array, x: jax.Array, starts: Mapping[int, Index]
) -> jax.Array:
  """Adds to a slice that `slice_heads` returns; as `add_to_slice`."""
  merged, starts = _merge_heads(total, starts)
  x, _ = _merge_heads(x, {})
  return add_to_slice(merged, x, starts).reshape(total.shape)


def _merge_heads(x, starts):
  """[B, T, H, X] to [B, T, H·X], and the first indices likewise."""
  *shape, num_heads, width = x.shape
  starts = {n: k * width if n == 2 else k for n, k in starts.items()}
  return x.reshape(*shape, num_heads * width), starts


def _first(x, starts):
  return [
    jnp.int32(starts.get(axis, 0) if length > 1 else 0)
    for axis, length in enumerate(x.shape)
  ]
