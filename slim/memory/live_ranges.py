"""Where and when a compiled program holds its temporary values.

XLA writes, if asked to, the order in which a program is executed, the first and
the last instruction at which each value is live, and the address it is at. The
form is that of jax 0.10 to 0.12.
"""

import pathlib
import re
from typing import NamedTuple

import jax

_INSTRUCTION = re.compile(r"^    \d+:\S+$", re.M)
_RANGE = re.compile(r"^    (\S+?)\{([\d,]*)\}:(-?\d+)-(-?\d+)$", re.M)
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),.* preallocated-temp:$")
_VALUE = re.compile(
  r"^ value: <\d+ (\S+?)(?:\{([\d,]*)\})?(?: \(phi\))? @\d+> "
  r"\(size=(\d+),offset=(\d+)\): ([^{]*)"
)


class Value(NamedTuple):
  """A value in temporary memory."""

  start: int  # The instruction that defines it.
  stop: int  # The last one that needs it.
  address: int
  size: int  # Bytes.
  name: str  # Of the instruction.
  index: str  # "1" for the second element of a tuple, else "".
  shape: str  # As "f32[16,1024]".


class LiveRanges:
  """The temporary values of a program.

  Attributes:
    num_instructions: How many the program has; those of a loop count once.
    program: Its text.
  """

  def __init__(self, folder: str):
    """Reads what XLA has written.

    Args:
      folder: Where, as in its option `xla_dump_to`.

    Raises:
      ValueError: If it has a form that is not known.
    """
    ending = "-live-range.txt"
    found = pathlib.Path(folder).glob(f"*{ending}")
    # What XLA compiles to try it out is smaller than the program.
    largest = max(found, key=lambda path: path.stat().st_size, default=None)
    if largest is None:
      raise _unknown_form("no live ranges")
    ranges, assignment, self.program = (
      pathlib.Path(str(largest).removesuffix(ending) + end).read_text("utf-8")
      for end in (ending, "-buffer-assignment.txt", ".txt")
    )
    self.num_instructions = len(_INSTRUCTION.findall(ranges))
    if not self.num_instructions:
      raise _unknown_form("a program without instructions")
    limits = {
      (name, index): (int(start), int(stop))
      for name, index, start, stop in _RANGE.findall(ranges)
    }
    self._values = _read_values(assignment, limits)

  def values_at(self, instruction: int) -> list[Value]:
    """Returns what is live at an instruction: of one place the newest value."""
    live = [x for x in self._values if x.start <= instruction <= x.stop]
    return list({(x.address, x.size): x for x in sorted(live)}.values())

  def count_bytes(self, instruction: int) -> int:
    """Returns how many bytes are live at an instruction, each counted once."""
    total = end = 0
    for value in sorted(self.values_at(instruction), key=lambda x: x.address):
      stop = value.address + value.size
      total += max(0, stop - max(value.address, end))
      end = max(end, stop)
    return total


def _read_values(assignment, limits):
  """Returns the values in temporary memory; `limits` is when they are live."""
  values = []
  base = size = 0  # Of the temporary memory that the lines are about.
  for line in assignment.splitlines():
    if line.startswith("allocation "):
      base += size
      match = _ALLOCATION.match(line)
      size = int(match[1]) if match else 0
    elif size and line:
      match = _VALUE.match(line)
      key = match and (match[1], match[2] or "")
      if key not in limits:
        raise _unknown_form(line.strip())
      address = base + int(match[4])
      values.append(Value(*limits[key], address, int(match[3]), *key, match[5]))
  return values


def _unknown_form(found):
  """Returns the error for what cannot be read."""
  return ValueError(
    "a timeline needs XLA to describe its buffers as in jax 0.10 to 0.12, got "
    f"{found!r} from jax {jax.__version__}: a memory_report needs no timeline"
  )
