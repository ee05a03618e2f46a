"""Checks of the arguments of `reversible` and `reversible_scan`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from slim.kernels.support.dtypes import at_least_float32


def check_entries(count: int, **arguments: Sequence[Any]) -> None:
  """Checks that arguments have one entry per sublayer.

  Args:
    count: The number of sublayers.
    **arguments: Sequences, by the names of the arguments.

  Raises:
    ValueError: If one has not.
  """
  for name, entries in arguments.items():
    if len(entries) != count:
      raise ValueError(
        f"{name} must have one entry for each of the {count} sublayers, got "
        f"{len(entries)}"
      )


def check_streams(
  one: ArrayLike, two: ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Checks that the streams have one type, float32 or wider.

  Args:
    one: x1.
    two: x2.

  Returns:
    The two streams as arrays.

  Raises:
    ValueError: If they are not.
  """
  one, two = jnp.asarray(one), jnp.asarray(two)
  if one.shape != two.shape or one.dtype != two.dtype:
    raise ValueError(
      f"streams must have one shape and dtype, got {one.dtype}{one.shape} and "
      f"{two.dtype}{two.shape}"
    )
  if at_least_float32(one.dtype) != one.dtype:
    raise ValueError(
      f"streams must be float32 or wider, got {one.dtype}: in fewer bits an "
      "addition cannot be undone; cast inside the sublayers"
    )
  return one, two


def check_y(i: int, y: Any, stream: jax.Array) -> None:
  """Checks that the y of a sublayer can be added to a stream as it is.

  Args:
    i: Index of the sublayer, for the message.
    y: The array, or its `jax.ShapeDtypeStruct`.
    stream: The stream.

  Raises:
    ValueError: If the shapes differ, or if the sum would lose the imaginary
      part of y.
  """
  is_cut = jnp.iscomplexobj(y) and not jnp.iscomplexobj(stream)
  if y.shape != stream.shape or is_cut:
    raise ValueError(
      f"the y that sublayers[{i}] returns must be like the streams, "
      f"{stream.dtype}{list(stream.shape)}, got {y.dtype}{list(y.shape)}"
    )
