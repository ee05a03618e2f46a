"""Convert between [B, T, H, X] and one matrix for each key head."""

import jax


def to_head_rows(x: jax.Array, num_groups: int) -> jax.Array:
  """Makes one matrix for each of G key heads.

  The H/G heads of queries that share a key head become rows of one matrix, so
  that one matrix product serves them all.

  Args:
    x: [B, T, H, X], any per-token, per-head array.
    num_groups: G; divides H.

  Returns:
    [B, G, H/G·T, X].
  """
  batch, length, num_heads, width = x.shape
  size = num_heads // num_groups
  x = x.reshape(batch, length, num_groups, size, width)
  x = x.transpose(0, 2, 3, 1, 4)
  return x.reshape(batch, num_groups, size * length, width)


def from_head_rows(x: jax.Array, num_heads: int) -> jax.Array:
  """Undoes `to_head_rows`.

  Args:
    x: [B, G, H/G·T, X].
    num_heads: H.

  Returns:
    [B, T, H, X].
  """
  batch, num_groups, num_rows, width = x.shape
  size = num_heads // num_groups
  length = num_rows // size
  x = x.reshape(batch, num_groups, size, length, width)
  x = x.transpose(0, 3, 1, 2, 4)
  return x.reshape(batch, length, num_heads, width)
