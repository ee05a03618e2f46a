"""The checks of arguments, each with one kind of message."""

import operator
from typing import Any

import jax
import jax.numpy as jnp


def check_shape(
  name: str, x: jax.Array, letters: str, sizes: dict[str, int]
) -> None:
  """Refuses an array whose shape is not the expected one.

  Args:
    name: Of the argument, for the message.
    x: The array.
    letters: One a dimension, as in `slim.types`: "BTHM".
    sizes: What some of the letters stand for; the others may be anything
      from 1.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  fits = len(x.shape) == len(letters) and all(
    size == sizes.get(letter, size) and size > 0
    for letter, size in zip(letters, x.shape, strict=True)
  )
  if not fits:
    known = ", ".join(f"{c}={sizes[c]}" for c in letters if c in sizes)
    raise ValueError(
      f"{name} must have shape [{', '.join(letters)}]"
      f"{f' with {known}' if known else ''}, got {tuple(x.shape)}"
    )


def check_positive_int(name: str, value: Any) -> int:
  """Refuses what is not a whole number from 1; takes NumPy's integers too.

  Args:
    name: Of the argument, for the message.
    value: The number.

  Returns:
    The number as an int.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  try:
    number = 0 if isinstance(value, bool) else operator.index(value)
  except TypeError:
    number = 0
  if number < 1:
    raise ValueError(f"{name} must be a positive integer, got {value!r}")
  return number


def to_broadcast(name: str, x: Any, sizes: dict[str, int]) -> jax.Array:
  """Gives `x` all the axes it broadcasts to, of length 1 where it had none.

  Args:
    name: Of the argument, for the message.
    x: Array-like.
    sizes: Length of each axis, by a letter for the message.

  Returns:
    The array; each axis has length 1 or that of `sizes`.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  x = jnp.asarray(x)
  shape = (1,) * (len(sizes) - x.ndim) + x.shape
  whole = tuple(sizes.values())
  if len(shape) > len(whole) or any(
    n not in (1, length) for n, length in zip(shape, whole, strict=True)
  ):
    axes = ", ".join(f"{letter}={length}" for letter, length in sizes.items())
    raise ValueError(f"{name} must broadcast to [{axes}], got shape {x.shape}")
  return x.reshape(shape)


def check_alike(name: str, found: Any, expected: Any) -> None:
  """Refuses a pytree whose structure, shapes or dtypes are not as expected.

  Args:
    name: Of what was found, for the message.
    found: Pytree of arrays or of their shapes.
    expected: Likewise.

  Raises:
    ValueError: Naming what was expected and what was found.
  """

  def leaves(tree):
    types = [
      jax.typeof(x) if _is_value(x) else x for x in jax.tree.leaves(tree)
    ]
    return [f"{x.dtype}{list(x.shape)}" for x in types]

  structures = jax.tree.structure(found), jax.tree.structure(expected)
  if structures[0] != structures[1]:
    raise ValueError(
      f"{name} must have the structure {structures[1]}, got {structures[0]}"
    )
  if leaves(found) != leaves(expected):
    raise ValueError(
      f"{name} must have leaves {leaves(expected)}, got {leaves(found)}"
    )


def _is_value(x):
  return not isinstance(x, jax.ShapeDtypeStruct)
