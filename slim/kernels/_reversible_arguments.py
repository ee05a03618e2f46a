"""The checks of what `reversible` and `reversible_scan` are given."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32


def check_entries(count: int, **arguments: Sequence[Any]) -> None:
  """Refuses arguments that have not one entry for each sublayer.

  Args:
    count: The number of sublayers.
    **arguments: Sequences by the names of the arguments.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  for name, entries in arguments.items():
    if len(entries) != count:
      raise ValueError(
        f"{name} must have one entry for each of the {count} sublayers, got "
        f"{len(entries)}"
      )


def check_streams(one: Any, two: Any) -> tuple[jax.Array, jax.Array]:
  """Refuses streams that differ, or are narrower than float32.

  Args:
    one: x1, array-like.
    two: x2, array-like.

  Returns:
    The two streams as arrays.

  Raises:
    ValueError: Naming what was expected and what was found.
  """
  one, two = jnp.asarray(one), jnp.asarray(two)
  if one.shape != two.shape or one.dtype != two.dtype:
    raise ValueError(
      f"streams must have one shape and type, got {one.dtype}{one.shape} and "
      f"{two.dtype}{two.shape}"
    )
  if at_least_float32(one.dtype) != one.dtype:
    raise ValueError(
      f"streams must be float32 or wider, got {one.dtype}: what is added in "
      "fewer bits cannot be taken off again; cast inside of the sublayers"
    )
  return one, two


def check_y(i: int, y: Any, stream: jax.Array) -> None:
  """Refuses a result that a stream would broadcast or cut to its real part.

  Args:
    i: Number of the sublayer that returns it, for the message.
    y: The result, or its shape.
    stream: What it is added to.

  Raises:
    ValueError: Naming what was expected and what was found.
  """
  is_cut = jnp.iscomplexobj(y) and not jnp.iscomplexobj(stream)
  if y.shape != stream.shape or is_cut:
    raise ValueError(
      f"the y that sublayers[{i}] returns must be like the streams, "
      f"{stream.dtype}{list(stream.shape)}, got {y.dtype}{list(y.shape)}"
    )
