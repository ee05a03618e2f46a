"""Numbers of bytes, as people write and read them."""

import re

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})")


def parse_size(name: str, text: str) -> int:
  """Reads a number of bytes.

  Args:
    name: Of the argument, for the error.
    text: Such as "2GiB" or "1.5 GiB".

  Returns:
    The bytes, rounded down.

  Raises:
    ValueError: If it is none.
  """
  match = _SIZE.fullmatch(text)
  if match is None or not float(match[1]):
    raise ValueError(
      f"{name} must be a number above 0 with one of the units "
      f"{', '.join(_UNITS)}, as in 2GiB, got {text!r}"
    )
  return int(float(match[1]) * _UNITS[match[2]])


def format_size(size: float) -> str:
  """Writes a number of bytes: three digits or more, as "48.2 MiB"."""
  unit, scale = max(
    (
      (unit, scale)
      for unit, scale in _UNITS.items()
      if scale <= max(size, 1024)
    ),
    key=lambda x: x[1],
  )
  return f"{size / scale:.{1 if size / scale < 100 else 0}f} {unit}"
