"""Which keys a query sees by their distance: causality, window and offset."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_INT32 = np.iinfo(np.int32)


class Window(NamedTuple):
  """Query s sees key t if low <= t - s <= high.

  Attributes:
    low: [] or [B], one a sequence, int32; None: no limit.
    high: Likewise.
  """

  low: jax.Array | None
  high: jax.Array | None

  def sees(self, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Tell which of queries [s, 1] see which of keys [1, t].

    Args:
      rows: [s, 1], int32.
      columns: [1, t], int32.

    Returns:
      [B or 1, 1, s, t], bool.
    """
    distance = (columns - rows)[None, None]
    seen = jnp.full_like(distance, True, bool)
    if self.low is not None:
      seen &= distance >= self.low.reshape(-1, 1, 1, 1)
    if self.high is not None:
      seen &= distance <= self.high.reshape(-1, 1, 1, 1)
    return seen

  def columns(self, first: jax.Array, last: jax.Array) -> tuple[Any, Any]:
    """The first and last key that any of queries `first` … `last` sees."""
    return (
      None if self.low is None else first + self.low.min(),
      None if self.high is None else last + self.high.max(),
    )

  def rows(self, first: jax.Array, last: jax.Array) -> tuple[Any, Any]:
    """The first and last query that sees any of keys `first` … `last`."""
    return (
      None if self.high is None else first - self.high.max(),
      None if self.low is None else last - self.low.min(),
    )


def make_window(
  local_window_size: Any,
  is_causal: bool,
  query_offset: Any,
  sizes: dict[str, int],
) -> Window:
  """Make the window of an attention from its arguments.

  Args:
    local_window_size: As of `softmax_attention_and_lse`.
    is_causal: Likewise.
    query_offset: Likewise.
    sizes: Lengths of B, T and S.

  Returns:
    The window. Its bounds lie in [-T, S], so that sums with indices fit int32.

  Raises:
    ValueError: If an argument has another shape, type or range.
  """
  left, right = _left_and_right(local_window_size)
  is_array = isinstance(is_causal, jax.Array) and is_causal.dtype == bool
  if isinstance(is_causal, jax.core.Tracer) or not (
    is_array or isinstance(is_causal, bool | np.bool_)
  ):
    raise ValueError(f"is_causal must be True or False, got {is_causal!r}")
  if is_causal:
    right = 0
  offset = _as_int32(query_offset, sizes["B"])
  return Window(
    None if left is None else _bound(offset, -left, sizes),
    None if right is None else _bound(offset, right, sizes),
  )


def _left_and_right(size):
  """(left, right), None without a limit; ValueError."""
  if size is None:
    return None, None
  pair = size if isinstance(size, tuple | list) else (size, size)
  try:
    left, right = (
      -1 if isinstance(n, bool | np.bool_) else operator.index(n) for n in pair
    )
  except (TypeError, ValueError):
    left = right = -1
  if min(left, right) < 0:
    raise ValueError(
      "local_window_size must be an integer >= 0 or a pair of them, (left, "
      f"right), got {size!r}"
    )
  return left, right


def _as_int32(offset, batch):
  """The offset, [] or [B], clipped to what int32 holds; ValueError."""
  if isinstance(offset, int) and not isinstance(offset, bool):
    return jnp.int32(min(max(offset, _INT32.min), _INT32.max))
  is_array = isinstance(offset, jax.Array | np.ndarray | np.generic)
  if not is_array or not jnp.issubdtype(offset.dtype, jnp.integer):
    found = f"{offset.dtype}" if is_array else f"{offset!r}"
  elif offset.shape not in ((), (batch,)):
    found = f"shape {offset.shape}"
  elif not offset.size:  # No sequence has one.
    return jnp.int32(0)
  else:
    held = jnp.iinfo(offset.dtype)
    numpy = jnp if isinstance(offset, jax.Array) else np
    offset = numpy.clip(
      offset, max(held.min, _INT32.min), min(held.max, _INT32.max)
    )
    return jnp.asarray(offset, jnp.int32)
  raise ValueError(
    "query_offset must be an integer, or integers of shape "
    f"[B={batch}], one a sequence, got {found}"
  )


def _bound(offset, shift, sizes):
  """offset + shift for any integer `shift`; None if it excludes nothing.

  Distances lie in (-T, S): beyond that one bound is as good as another. The
  sum wraps around to a number between -T and S, which int32 holds.
  """
  least, most = -sizes["T"] - shift, sizes["S"] - shift
  if least > _INT32.max or most < _INT32.min:
    return None
  clipped = jnp.clip(offset, max(least, _INT32.min), min(most, _INT32.max))
  return clipped + np.int64(shift).astype(np.int32)
