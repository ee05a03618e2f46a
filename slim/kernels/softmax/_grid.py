"""The cut of queries and keys into a grid of blocks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.softmax._slices import slice_or_broadcast
from slim.kernels.support.head_rows import to_head_rows
from slim.kernels.support.mesh_axes import match_varying_axes

Index = jax.Array | int


class Axis(NamedTuple):
  """A cut of `length` tokens into blocks of `size`.

  All blocks are full. If `size` does not divide `length`, the last block starts
  earlier and overlaps the one before; see `counted_here`.
  """

  length: int
  size: int

  @property
  def num_blocks(self) -> int:
    """The number of blocks."""
    return -(-self.length // self.size)

  def start(self, i: Index) -> jax.Array:
    """Returns the first token of block i, int32."""
    start = jnp.minimum(i * self.size, self.length - self.size)
    return start.astype(jnp.int32)

  def tokens(self, i: Index) -> jax.Array:
    """Returns the tokens of block i, [size], int32."""
    return self.start(i) + jnp.arange(self.size, dtype=jnp.int32)

  def counted_here(self, i: Index) -> jax.Array | None:
    """Returns which tokens of block i are in no earlier one; None means all."""
    if self.length % self.size == 0:
      return None
    return self.tokens(i) >= i * self.size

  def blocks(
    self, first: jax.Array | None, last: jax.Array | None
  ) -> tuple[Index, Index]:
    """Returns the range of blocks with any token from `first` to `last`.

    Args:
      first: Token, may be negative. Default: the first of all.
      last: Token, may be beyond the end. Default: the last of all.

    Returns:
      begin: The first block.
      end: The last block plus one.
    """
    begin: Index = 0
    end: Index = self.num_blocks
    if first is not None:
      begin = jnp.clip(first // self.size, 0, end)
    if last is not None:
      end = jnp.clip(last // self.size + 1, 0, end)
    return begin, end


class Grid(NamedTuple):
  """The blocks of queries and keys.

  Attributes:
    rows: The cut of the queries.
    columns: The cut of the keys.
  """

  rows: Axis
  columns: Axis

  def queries(self, x: jax.Array, num_groups: int, i: Index) -> jax.Array:
    """Slices block i out of any per-query array.

    Args:
      x: [B, T, H, X].
      num_groups: G.
      i: Which block of queries.

    Returns:
      [B, G, H/G·s, X].
    """
    x = slice_or_broadcast(x, self.rows.start(i), self.rows.size, 1)
    return to_head_rows(x, num_groups)

  def keys(self, x: jax.Array, j: Index) -> jax.Array:
    """Slices block j out of keys or values: [B, S, G, X] to [B, G, t, X]."""
    x = slice_or_broadcast(x, self.columns.start(j), self.columns.size, 1)
    return to_head_rows(x, x.shape[2])

  def bias(
    self, bias: jax.Array | None, i: Index, j: Index
  ) -> jax.Array | None:
    """Slices block (i, j) out of a bias, [B or 1, H or 1, T or 1, S or 1]."""
    if bias is None:
      return None
    bias = slice_or_broadcast(bias, self.rows.start(i), self.rows.size, 2)
    return slice_or_broadcast(bias, self.columns.start(j), self.columns.size, 3)

  def tokens(
    self, like: jax.Array, i: Index, j: Index
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the tokens of block (i, j).

    Args:
      like: In `shard_map` the result varies over the mesh axes of this array.
      i: Which block of queries.
      j: Which block of keys.

    Returns:
      rows: [s], int32.
      columns: [t], int32.
    """
    tokens = self.rows.tokens(i), self.columns.tokens(j)
    return match_varying_axes((like, *tokens))[1:]
