"""The walk over the blocks of a grid that the window leaves."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels.softmax._grid import Axis, Grid
from slim.kernels.softmax._slices import Index
from slim.kernels.softmax._window import Limit, Limits
from slim.kernels.support.mesh_axes import match_varying_axes


class Walk(NamedTuple):
  """A walk: all visible blocks of one outer block, then those of the next.

  It is one loop and not two, so that its number of turns is known when it is
  compiled, if the window is. Else a GPU's host would wait at every turn.

  Attributes:
    outer: The axis on which it goes once.
    inner: The axis on which it goes once for each outer block.
    limits: (low, high): outer token s meets inner token t if low <= t - s <=
      high.
    outer_end: Outer tokens from here on meet none; None for no limit.
    inner_end: Likewise.
  """

  outer: Axis
  inner: Axis
  limits: Limits
  outer_end: Limit = None
  inner_end: Limit = None

  @classmethod
  def along_rows(cls, grid: Grid, limits: Limits, end: Limit) -> "Walk":
    """Goes through the blocks of keys, up to `end`, for each of queries."""
    return cls(grid.rows, grid.columns, limits, inner_end=end)

  @classmethod
  def along_columns(cls, grid: Grid, limits: Limits, end: Limit) -> "Walk":
    """Goes through the blocks of queries for each of keys, up to `end`."""
    low, high = (None if x is None else -x for x in limits)
    return cls(grid.columns, grid.rows, (high, low), outer_end=end)

  def run(
    self,
    visit: Callable[[jax.Array, jax.Array, jax.Array, Any], Any],
    carry: Any,
    like: jax.Array,
  ) -> Any:
    """Visits all blocks.

    Args:
      visit: `visit(i, j, is_first, carry) -> carry`, with the outer block, the
        inner block, and whether it is the first one of the outer block.
      carry: Pytree of arrays.
      like: In `shard_map` the carry varies over the mesh axes of this array.

    Returns:
      The carry after the last block.
    """
    counts = self._count(np.arange(self.outer.num_blocks, dtype=np.int32))
    if isinstance(counts, np.ndarray):  # The limits are integers.
      _check_count(counts.sum(dtype=np.int64))
    num_visits = counts.sum(dtype=np.int32)
    first = jnp.int32((counts > 0).argmax())
    place = first, jnp.int32(self._blocks(first)[0])

    def turn(loop):
      number, (i, j), carry = loop
      begin, end = self._blocks(i)
      carry = visit(i, j, j == begin, carry)
      i = jnp.where(j + 1 < end, i, i + 1)
      j = jnp.where(j + 1 < end, j + 1, self._blocks(i)[0])
      return number + 1, (i, j), carry

    place = match_varying_axes((like, *place))[1:]
    # Not fori_loop, which becomes a scan. If an outer loop is differentiated in
    # jax.checkpoint, JAX splits scans in it, and stores what depends on indices
    # alone for all turns: the masks, T·S booleans. It does not split a while.
    *_, carry = jax.lax.while_loop(
      lambda loop: loop[0] < num_visits, turn, (jnp.int32(0), place, carry)
    )
    return carry

  def _blocks(self, i: Index) -> tuple[Index, Index]:
    """Returns the first inner block that outer block i sees, and the end."""
    low, high = self.limits
    first = self.outer.start(i)
    last = first + self.outer.size - 1
    begin, end = self.inner.blocks(
      None if low is None else first + low,
      None if high is None else last + high,
    )
    if self.inner_end is not None:
      end = jnp.minimum(end, -(-self.inner_end // self.inner.size))
    return begin, end

  def _count(self, i: np.ndarray) -> np.ndarray | jax.Array:
    """Counts the inner blocks that some outer blocks see."""
    begin, end = self._blocks(i)
    # One count for each block, also without limits, where all are the same.
    counts = (end - begin + np.zeros_like(i)).clip(0)
    if self.outer_end is not None:
      counts = jnp.where(self.outer.start(i) < self.outer_end, counts, 0)
    return counts


def _check_count(num_visits):
  """Raises ValueError if a loop cannot count its turns."""
  if num_visits > np.iinfo(np.int32).max:
    raise ValueError(
      "q_block_size and k_block_size must be larger, so that there are fewer "
      f"than 2^31 pairs of blocks, got {num_visits}"
    )
