"""Which keys a query sees by their positions: causality, window and offset."""

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from slim.kernels.support.shapes import check_bool

Limit = jax.Array | None  # None: no limit.
# Of the distances t - s at which query s may see key t. Integers of Python, if
# they are known before the program is compiled.
Limits = tuple[Limit | int, Limit | int]

_INT32 = np.iinfo(np.int32)


class Window(NamedTuple):
  """Query s sees key t if low <= t - s <= high and t < end.

  Attributes:
    low: [] or one per sequence, [B], int32; None for no limit.
    high: Likewise.
    end: [], int32; None for no limit.
  """

  low: Limit
  high: Limit
  end: Limit = None

  def sees(self, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Tells which queries see which keys.

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
    if self.end is not None:
      seen &= (columns < self.end)[None, None]
    return seen

  @property
  def hides(self) -> bool:
    """Whether there is any limit."""
    return any(x is not None for x in self)

  def limits(self) -> Limits:
    """Returns the limits of distance of all sequences together."""
    return (
      None if self.low is None else self.low.min(),
      None if self.high is None else self.high.max(),
    )


def make_window(
  local_window_size: int | tuple[int, int] | None,
  is_causal: bool,
  query_offset: ArrayLike,
  sizes: dict[str, int],
) -> Window:
  """Makes the window of an attention from its arguments.

  Args:
    local_window_size: As in `softmax_attention_and_lse`.
    is_causal: As in `softmax_attention_and_lse`.
    query_offset: As in `softmax_attention_and_lse`.
    sizes: B, T and S.

  Returns:
    The window. Its limits are in [-T, S], so that sums with indices fit int32.

  Raises:
    ValueError: If an argument has the wrong shape, dtype or value.
  """
  left, right = _left_and_right(local_window_size)
  check_bool("is_causal", is_causal)
  if is_causal:
    right = 0
  offset = _as_int32(query_offset, sizes["B"])
  return Window(
    None if left is None else _bound(offset, -left, sizes),
    None if right is None else _bound(offset, right, sizes),
  )


def known_limits(
  local_window_size: int | tuple[int, int] | None,
  is_causal: bool,
  query_offset: ArrayLike,
  sizes: dict[str, int],
) -> Limits | None:
  """Returns the limits of all sequences, if the offset is no array of JAX.

  Args:
    local_window_size: As for `make_window`, which checks it.
    is_causal: Likewise.
    query_offset: Likewise.
    sizes: Likewise.

  Returns:
    What `Window.limits` would return; None if it is known at run time only.
  """
  if isinstance(query_offset, jax.Array):
    return None
  left, right = _left_and_right(local_window_size)
  if is_causal:
    right = 0
  offsets = np.asarray(query_offset)
  first, last = (
    int(f(initial=0) if not offsets.size else f())
    for f in (offsets.min, offsets.max)
  )

  def clip(n):
    return min(max(n, -sizes["T"]), sizes["S"])

  return (
    None if left is None else clip(first - left),
    None if right is None else clip(last + right),
  )


def _left_and_right(size):
  """Returns (left, right), each None for no limit; ValueError."""
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
  """Returns the offset, [] or [B], clipped to int32; ValueError."""
  if isinstance(offset, int) and not isinstance(offset, bool):
    return jnp.int32(min(max(offset, _INT32.min), _INT32.max))
  is_array = isinstance(offset, jax.Array | np.ndarray | np.generic)
  if not is_array or not jnp.issubdtype(offset.dtype, jnp.integer):
    found = f"{offset.dtype}" if is_array else f"{offset!r}"
  elif offset.shape not in ((), (batch,)):
    found = f"shape {offset.shape}"
  elif not offset.size:  # A batch of 0 sequences.
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
    f"[B={batch}], one per sequence, got {found}"
  )


def _bound(offset, shift, sizes):
  """Returns offset + shift for any integer `shift`; None if it hides nothing.

  Distances lie in (-T, S), so the limit may be clipped to [-T, S]. The sum of
  int32 may overflow on the way, but wraps around to that clipped value.
  """
  least, most = -sizes["T"] - shift, sizes["S"] - shift
  if least > _INT32.max or most < _INT32.min:
    return None
  clipped = jnp.clip(offset, max(least, _INT32.min), min(most, _INT32.max))
  return clipped + np.int64(shift).astype(np.int32)
