"""Read live ranges and addresses of temporary values from XLA's dump.

With `xla_dump_to`, XLA writes the order of instructions, the first and the last
instruction at which each value is live, and its address. This reads the format
of jax 0.10 to 0.12.
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
  """A value in temporary memory.

  Attributes:
    start: Index of the instruction that defines it.
    stop: Index of the last instruction that reads it.
    address: Bytes from the start of temporary memory.
    size: Bytes.
    name: Name of the instruction that defines it.
    element: "1" for the second element of a tuple; "" for no tuple.
    shape: Such as "f32[16,1024]".
  """

  start: int
  stop: int
  address: int
  size: int
  name: str
  element: str
  shape: str


class LiveRanges:
  """The temporary values of a program.

  Attributes:
    num_instructions: Number of instructions. Those of a loop count once.
    program: Text of the program.
  """

  def __init__(self, folder: str):
    """Reads a dump of XLA.

    Args:
      folder: The folder of its option `xla_dump_to`.

    Raises:
      ValueError: If the dump has another format.
    """
    ending = "-live-range.txt"
    found = pathlib.Path(folder).glob(f"*{ending}")
    # XLA also dumps small programs that it compiles for itself.
    largest = max(found, key=lambda path: path.stat().st_size, default=None)
    if largest is None:
      raise _format_error("no live ranges")
    ranges, assignment, self.program = (
      pathlib.Path(str(largest).removesuffix(ending) + end).read_text("utf-8")
      for end in (ending, "-buffer-assignment.txt", ".txt")
    )
    self.num_instructions = len(_INSTRUCTION.findall(ranges))
    if not self.num_instructions:
      raise _format_error("a program without instructions")
    live_ranges = {
      (name, element): (int(start), int(stop))
      for name, element, start, stop in _RANGE.findall(ranges)
    }
    self._values = _read_values(assignment, live_ranges)

  def values_at(self, instruction: int) -> list[Value]:
    """Returns the live values, and of each place only the newest value."""
    live = [x for x in self._values if x.start <= instruction <= x.stop]
    return list({(x.address, x.size): x for x in sorted(live)}.values())

  def count_bytes(self, instruction: int) -> int:
    """Counts the live bytes at an instruction, overlaps once."""
    total = end = 0
    for value in sorted(self.values_at(instruction), key=lambda x: x.address):
      stop = value.address + value.size
      total += max(0, stop - max(value.address, end))
      end = max(end, stop)
    return total


def _read_values(
  assignment: str, ranges: dict[tuple[str, str], tuple[int, int]]
) -> list[Value]:
  """Reads the values in temporary memory.

  Args:
    assignment: Text of the buffer assignment.
    ranges: (start, stop) of each value, by name and element.

  Returns:
    The values.
  """
  values = []
  base = size = 0  # Address and bytes of the current temporary allocation.
  for line in assignment.splitlines():
    if line.startswith("allocation "):
      base += size
      match = _ALLOCATION.match(line)
      size = int(match[1]) if match else 0
    elif size and line:
      match = _VALUE.match(line)
      key = (match[1], match[2] or "") if match else None
      if not match or key not in ranges:
        raise _format_error(line.strip())
      address = base + int(match[4])
      values.append(Value(*ranges[key], address, int(match[3]), *key, match[5]))
  return values


def _format_error(found: str) -> ValueError:
  """Makes the error for a line that cannot be read."""
  return ValueError(
    "a timeline needs XLA to describe its buffers as in jax 0.10 to 0.12, got "
    f"{found!r} from jax {jax.__version__}: use memory_report, which reads no "
    "dump"
  )
