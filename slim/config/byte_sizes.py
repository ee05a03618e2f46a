"""Sizes in bytes, as people write and read them: 2GiB."""

import re
from collections.abc import Callable

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})")


def parse_size(name: str, text: str) -> int:
  """Parses a size in bytes.

  Args:
    name: The name of the argument, for the error.
    text: The size, as in "2GiB" or "1.5 GiB".

  Returns:
    The bytes, rounded down.

  Raises:
    ValueError: If it is not a size.
  """
  match = _SIZE.fullmatch(text)
  if match is None or not float(match[1]):
    raise ValueError(
      f"{name} must be a number above 0 with one of the units "
      f"{', '.join(_UNITS)}, as in 2GiB, got {text!r}"
    )
  return int(float(match[1]) * _UNITS[match[2]])


def format_size(size: float, rounding: Callable[[float], float] = round) -> str:
  """Formats a size in bytes with three or more digits, as in "48.2 MiB".

  Args:
    size: Bytes.
    rounding: `math.ceil` for a size that must suffice, `math.floor` for one
      that must not be passed.

  Returns:
    The number and its unit.
  """
  unit, scale = max(
    (
      (unit, scale)
      for unit, scale in _UNITS.items()
      if scale <= max(size, 1024)
    ),
    key=lambda x: x[1],
  )
  digits = 1 if size / scale < 100 else 0
  return f"{rounding(size / scale * 10**digits) / 10**digits:.{digits}f} {unit}"
