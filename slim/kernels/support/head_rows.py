"""Reorder arrays of tokens into one matrix for each head of keys."""

import jax


def to_head_rows(
  x: jax.Array, heads: tuple[int, int] | None = None
) -> jax.Array:
  """[B, s, N, K] as [B, N, s, K], or [B, s, H, K] as [B, N, G·s, K].

  The queries of all heads that share a head of keys are rows of one matrix.

  Args:
    x: Queries, keys, values, or what else there is one of for a token and head.
    heads: (N, G), if x has H = N·G heads.

  Returns:
    As said; an array of one product.
  """
  batch, length, _, width = x.shape
  num_groups, size = heads or (x.shape[2], 1)
  x = x.reshape(batch, length, num_groups, size, width)
  x = x.transpose(0, 2, 3, 1, 4)
  return x.reshape(batch, num_groups, size * length, width)


def from_head_rows(x: jax.Array, num_heads: int) -> jax.Array:
  """[B, N, G·s, K] as [B, s, H, K]: undoes `to_head_rows`."""
  batch, num_groups, num_rows, width = x.shape
  size = num_heads // num_groups
  length = num_rows // size
  x = x.reshape(batch, num_groups, size, length, width)
  x = x.transpose(0, 3, 1, 2, 4)
  return x.reshape(batch, length, num_heads, width)
