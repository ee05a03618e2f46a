"""The cut of queries and keys into a grid of blocks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.softmax._slices import Index, slice_heads, slice_or_broadcast
from slim.kernels.support.head_rows import to_head_rows
from slim.kernels.support.mesh_axes import match_varying_axes


class Heads(NamedTuple):
  """Heads of sequences that are computed at once: all, or one of one sequence.

  Attributes:
    num_sequences: How many sequences.
    num_heads: How many heads of queries.
    num_groups: How many heads of keys.
    sequence: The first sequence.
    head: The first head of queries.
    group: The first head of keys.
  """

  num_sequences: int
  num_heads: int
  num_groups: int
  sequence: Index = 0
  head: Index = 0
  group: Index = 0

  def of_queries(self, token: Index) -> dict[int, Index]:
    """Returns where they start in an array [B, T, H, X], from `token` on."""
    return {0: self.sequence, 1: token, 2: self.head}

  def of_keys(self, token: Index) -> dict[int, Index]:
    """Returns where they start in an array [B, S, G, X], from `token` on."""
    return {0: self.sequence, 1: token, 2: self.group}


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

  def start(self, i: Index) -> Any:
    """Returns the first token of block i, int32; of NumPy if `i` is."""
    numpy: Any = jnp if isinstance(i, jax.Array) else np
    start = numpy.minimum(i * self.size, self.length - self.size)
    return start.astype(np.int32)

  def tokens(self, i: Index) -> jax.Array:
    """Returns the tokens of block i, [size], int32."""
    return self.start(i) + jnp.arange(self.size, dtype=jnp.int32)

  def counted_here(self, i: Index) -> jax.Array | None:
    """Returns which tokens of block i are in no earlier one; None means all."""
    if self.length % self.size == 0:
      return None
    return self.tokens(i) >= i * self.size

  def blocks(self, first: Any, last: Any) -> tuple[Any, Any]:
    """Returns the range of blocks with any token from `first` to `last`.

    Args:
      first: Token, may be negative. None: the first of all.
      last: Token, may be beyond the end. None: the last of all.

    Returns:
      begin: The first block.
      end: The last block plus one. Both are of JAX if the tokens are.
    """
    begin, end = np.int32(0), np.int32(self.num_blocks)
    if first is not None:
      begin = (first // self.size).clip(0, self.num_blocks)
    if last is not None:
      end = (last // self.size + 1).clip(0, self.num_blocks)
    return begin, end


class Grid(NamedTuple):
  """The blocks of queries and keys.

  Attributes:
    rows: The cut of the queries.
    columns: The cut of the keys.
  """

  rows: Axis
  columns: Axis

  def queries(self, x: jax.Array, heads: Heads, i: Index) -> jax.Array:
    """Slices block i out of any per-query array.

    Args:
      x: [B, T, H, X].
      heads: Which heads to slice, b sequences of h heads and g key heads.
      i: Which block of queries.

    Returns:
      [b, g, h/g·s, X].
    """
    starts = heads.of_queries(self.rows.start(i))
    sizes = {0: heads.num_sequences, 1: self.rows.size, 2: heads.num_heads}
    return to_head_rows(slice_heads(x, starts, sizes), heads.num_groups)

  def keys(self, x: jax.Array, heads: Heads, j: Index) -> jax.Array:
    """Slices block j out of keys or values: [B, S, G, X] to [b, g, t, X]."""
    starts = heads.of_keys(self.columns.start(j))
    sizes = {0: heads.num_sequences, 1: self.columns.size, 2: heads.num_groups}
    return to_head_rows(slice_heads(x, starts, sizes), heads.num_groups)

  def bias(
    self, bias: jax.Array | None, i: Index, j: Index
  ) -> jax.Array | None:
    """Slices block (i, j) out of a bias, [B or 1, H or 1, T or 1, S or 1]."""
    if bias is None:
      return None
    starts = {2: self.rows.start(i), 3: self.columns.start(j)}
    sizes = {2: self.rows.size, 3: self.columns.size}
    return slice_or_broadcast(bias, starts, sizes)

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
