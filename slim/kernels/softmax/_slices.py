"""Slices that leave axes of length 1 to broadcast."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

Index = jax.Array | np.ndarray | np.integer | int


@partial(
  jax.tree_util.register_dataclass,
  data_fields=["merged"],
  meta_fields=["num_heads"],
)
@dataclasses.dataclass(frozen=True)
class MergedHeads:
  """An array [B, T, H, X] that `slice_heads` reads, stored as [B, T, H·X].

  A loop carries it as it is stored. If it were reshaped before a loop, XLA for
  CPUs would copy all of it for H = 1.

  Attributes:
    merged: [B, T, H·X].
    num_heads: H.
  """

  merged: jax.Array
  num_heads: int

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """B, T, H and X."""
    batch_size, length, channels = self.merged.shape
    return batch_size, length, self.num_heads, channels // self.num_heads

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the numbers."""
    return self.merged.dtype


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
  x: jax.Array | MergedHeads,
  starts: Mapping[int, Index],
  sizes: Mapping[int, int],
) -> jax.Array:
  """Slices axes 0 to 2 of an array [B, T, H, X]; as `slice_or_broadcast`.

  Heads are sliced as parts of one axis of H·X. With an axis of their own, XLA
  for GPUs transposes all of `x` before a loop that slices it, to save the
  transposition of each slice.
  """
  width = x.shape[3]
  lengths = {n: k * width if n == 2 else k for n, k in sizes.items()}
  merged = x.merged if isinstance(x, MergedHeads) else merge_heads(x)
  found = slice_or_broadcast(merged, _merged_starts(starts, width), lengths)
  return split_heads(found, width)


def set_heads(
  merged: jax.Array, x: jax.Array, starts: Mapping[int, Index]
) -> jax.Array:
  """Replaces heads by `x` [b, t, h, X].

  Args:
    merged: From `merge_heads`. A loop carries it in this shape: if it were
      merged in the loop, XLA for CPUs would add a copy of all of it.
    x: The new values.
    starts: As for `slice_heads`.

  Returns:
    The array with the new values, in its own dtype.
  """
  starts = _merged_starts(starts, x.shape[3])
  return set_slice(merged, _like_merged(merged, x), starts)


def add_to_heads(
  merged: jax.Array, x: jax.Array, starts: Mapping[int, Index]
) -> jax.Array:
  """Adds `x` to heads; the arguments are those of `set_heads`."""
  x, starts = _like_merged(merged, x), _merged_starts(starts, x.shape[3])
  return add_to_slice(merged, x, starts)


def merge_heads(x: jax.Array) -> jax.Array:
  """[B, T, H, X] to [B, T, H·X]; one head stays [B, T, 1, X].

  If the result of a loop lost that axis of length 1 and got it back, XLA for
  CPUs would copy it.
  """
  if x.shape[2] == 1:
    return x
  return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def split_heads(merged: jax.Array, width: int) -> jax.Array:
  """Undoes `merge_heads`: [B, T, H·X] to [B, T, H, X]; X is the width."""
  if merged.ndim == 4:
    return merged
  shape = *merged.shape[:2], merged.shape[2] // width, width
  return merged.reshape(shape)


def _like_merged(merged, x):
  """Merges the heads of x [b, t, h, X] as those of another array are."""
  if merged.ndim == 4:
    return x
  return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3])


def _merged_starts(starts, width):
  """The first indices of a slice in an array with merged heads."""
  return {n: k * width if n == 2 else k for n, k in starts.items()}


def _first(x, starts):
  return [
    jnp.int32(starts.get(axis, 0) if length > 1 else 0)
    for axis, length in enumerate(x.shape)
  ]
