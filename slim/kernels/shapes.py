"""One check, with one kind of message, for the shapes of arguments."""

import jax


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
