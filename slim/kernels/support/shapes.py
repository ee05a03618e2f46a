"""Checks of arguments. All raise ValueError with messages of one form."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_array(name: str, x: Any) -> jax.Array:
  """Converts an array-like argument to a JAX array.

  Args:
    name: Name of the argument, for the message.
    x: Array, number, or nested list of numbers.

  Returns:
    The array.

  Raises:
    ValueError: If it cannot be converted.
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
  """Checks the shape of an array.

  Args:
    name: Name of the argument, for the message.
    x: The array.
    letters: One letter per axis, as in `slim.types`, for example "BTHM".
    sizes: The sizes of the letters that are known. Any other may be 1 or
      larger. B may be 0.

  Raises:
    ValueError: If the shape does not fit.
  """
  fits = len(x.shape) == len(letters) and all(
    size == sizes.get(letter, size) and (size > 0 or letter == "B")
    for letter, size in zip(letters, x.shape, strict=True)
  )
  if not fits:
    known = ", ".join(f"{c}={sizes[c]}" for c in letters if c in sizes)
    is_empty = len(x.shape) == len(letters) and 0 in x.shape
    raise ValueError(
      f"{name} must have shape [{', '.join(letters)}]"
      f"{f' with {known}' if known else ''}"
      f"{', and only B may be 0' if is_empty else ''}, got {tuple(x.shape)}"
    )


def check_positive_int(name: str, value: Any) -> int:
  """Checks that an argument is an integer of 1 or more, of Python or NumPy.

  Args:
    name: Name of the argument, for the message.
    value: The number.

  Returns:
    The number as an int.

  Raises:
    ValueError: If it is not.
  """
  try:
    number = 0 if isinstance(value, bool) else operator.index(value)
  except TypeError:
    number = 0
  if number < 1:
    raise ValueError(f"{name} must be a positive integer, got {value!r}")
  return number


def check_bool(name: str, value: Any) -> None:
  """Raises ValueError unless a value is True or False, known when traced."""
  is_array = isinstance(value, jax.Array) and value.dtype == bool
  if isinstance(value, jax.core.Tracer) or not (
    is_array or isinstance(value, bool | np.bool_)
  ):
    raise ValueError(f"{name} must be True or False, got {value!r}")


def check_number(name: str, value: Any) -> float | jax.Array:
  """Checks that an argument is one real number.

  Args:
    name: Name of the argument, for the message.
    value: A number of Python or NumPy, or a JAX array [], traced or not.

  Returns:
    The number as a float; a JAX array unchanged.

  Raises:
    ValueError: If it is not.
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


def check_static_number(name: str, value: Any) -> float:
  """Checks that an argument is one real number, known when JAX traces.

  Args:
    name: Name of the argument, for the message.
    value: A number of Python or NumPy, or a JAX array [].

  Returns:
    The number as a float.

  Raises:
    ValueError: If it is not, or if it is traced.
  """
  number = check_number(name, value)
  if isinstance(number, jax.core.Tracer):
    raise ValueError(
      f"{name} must be known when the function is traced, got {number}: mark "
      "it as static in jax.jit"
    )
  return float(number)


def check_rate(name: str, value: Any) -> float:
  """Checks that an argument is a static probability in [0, 1).

  Args:
    name: Name of the argument, for the message.
    value: A number of Python or NumPy, or a JAX array [].

  Returns:
    The number as a float.

  Raises:
    ValueError: If it is not, or if it is traced.
  """
  rate = check_static_number(name, value)
  if not 0 <= rate < 1:
    raise ValueError(f"{name} must be in [0, 1), got {value!r}")
  return rate


def to_broadcast(name: str, x: Any, sizes: dict[str, int]) -> jax.Array:
  """Adds axes of length 1, until `x` has all the axes it broadcasts to.

  Args:
    name: Name of the argument, for the message.
    x: Array-like.
    sizes: Length of each axis, by its letter.

  Returns:
    The array. Each axis has length 1 or that of `sizes`.

  Raises:
    ValueError: If `x` does not broadcast to these axes.
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
  """Raises ValueError if the dtype of an array is not real floating-point."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"{name} must be floating-point, got {x.dtype}")


def check_alike(name: str, found: Any, expected: Any) -> None:
  """Checks the structure, shapes and dtypes of a pytree.

  Args:
    name: Name of the pytree, for the message.
    found: Pytree of arrays or `jax.ShapeDtypeStruct`.
    expected: Likewise.

  Raises:
    ValueError: If they differ.
  """

  def leaves(tree):
    types = [
      jax.typeof(x) if _is_value(x) else x for x in jax.tree.leaves(tree)
    ]
    return [f"{x.dtype}{list(x.shape)}" for x in types]

  structure: Any = jax.tree.structure(found)  # Its type has no `!=`.
  if structure != jax.tree.structure(expected):
    raise ValueError(
      f"{name} must have the structure {jax.tree.structure(expected)}, got "
      f"{structure}"
    )
  if leaves(found) != leaves(expected):
    raise ValueError(
      f"{name} must have leaves {leaves(expected)}, got {leaves(found)}"
    )


def _is_value(x):
  return not isinstance(x, jax.ShapeDtypeStruct)
