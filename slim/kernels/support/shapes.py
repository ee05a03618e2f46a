"""The checks of arguments, each with one kind of message."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_array(name: str, x: Any) -> jax.Array:
  """Makes an array of JAX of what may be one of NumPy, a list or a number.

  Args:
    name: Of the argument, for the message.
    x: Array-like.

  Returns:
    The array.

  Raises:
    ValueError: Naming the argument and what was found.
  """
  try:
    return jnp.asarray(x)
  except (TypeError, ValueError):
    raise ValueError(
      f"{name} must be an array, got {type(x).__name__}"
    ) from None


def check_shape(
  name: str, x: jax.Array, letters: str, sizes: dict[str, int]
) -> None:
  """Refuses an array whose shape is not the expected one.

  Args:
    name: Of the argument, for the message.
    x: The array.
    letters: One a dimension, as in `slim.types`: "BTHM".
    sizes: What some of the letters stand for; the others may be anything
      from 1, and B may be 0.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  fits = len(x.shape) == len(letters) and all(
    size == sizes.get(letter, size) and (size > 0 or letter == "B")
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


def check_number(name: str, value: Any) -> float | jax.Array:
  """Refuses what is not one real number.

  Args:
    name: Of the argument, for the message.
    value: A number of Python or NumPy, or an array [] of JAX, traced or not.

  Returns:
    The number as a float; an array of JAX as it is.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  found = repr(value)
  if isinstance(value, jax.Array | np.ndarray | np.generic):
    found = f"{value.dtype} of shape {value.shape}"
    is_number = value.shape == () and (
      jnp.issubdtype(value.dtype, jnp.floating)
      or jnp.issubdtype(value.dtype, jnp.integer)
    )
  else:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if not is_number:
    raise ValueError(
      f"{name} must be a number, or an array of shape [], got {found}"
    )
  return value if isinstance(value, jax.Array) else float(value)


def check_rate(name: str, value: Any) -> float:
  """Refuses what is not a probability in [0, 1) that is known when traced.

  Args:
    name: Of the argument, for the message.
    value: A number of Python or NumPy, or an array [] of JAX.

  Returns:
    The number as a float.

  Raises:
    ValueError: Naming the argument, what was expected and what was found.
  """
  rate = check_number(name, value)
  if isinstance(rate, jax.core.Tracer):
    raise ValueError(
      f"{name} must be known when the function is traced, got {rate}: mark it "
      "as static in jax.jit"
    )
  rate = float(rate)
  if not 0 <= rate < 1:
    raise ValueError(f"{name} must be in [0, 1), got {value!r}")
  return rate


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
  x = as_array(name, x)
  shape = (1,) * (len(sizes) - x.ndim) + x.shape
  whole = tuple(sizes.values())
  if len(shape) > len(whole) or any(
    n not in (1, length) for n, length in zip(shape, whole, strict=True)
  ):
    axes = ", ".join(f"{letter}={length}" for letter, length in sizes.items())
    raise ValueError(f"{name} must broadcast to [{axes}], got shape {x.shape}")
  return x.reshape(shape)


def check_float(name: str, x: jax.Array) -> None:
  """Refuses an array that is not of real floating-point numbers; ValueError."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be floating-point, got {x.dtype}")


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
