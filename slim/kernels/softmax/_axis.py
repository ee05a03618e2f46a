"""The cut of one axis, queries or keys, into blocks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

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

  def index(self, i: Index) -> jax.Array:
    """Returns the tokens of block i, [size], int32."""
    return self.start(i) + jnp.arange(self.size, dtype=jnp.int32)

  def counted_here(self, i: Index) -> jax.Array | None:
    """Returns which tokens of block i are in no earlier one; None means all."""
    if self.length % self.size == 0:
      return None
    return self.index(i) >= i * self.size

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
    begin, end = 0, self.num_blocks
    if first is not None:
      begin = jnp.clip(first // self.size, 0, end)
    if last is not None:
      end = jnp.clip(last // self.size + 1, 0, end)
    return begin, end
