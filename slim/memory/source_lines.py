"""Which line of the source made a value of a compiled program.

The text of a program that XLA has compiled names, for most instructions, the
operation they come from and its stack frame. A value that only passes through
an instruction, such as an element of a loop's tuple, is followed to where it
was made: that of a stack that a loop fills, to what the loop puts on it.
"""

import os
import pathlib
import re
from typing import NamedTuple

import jax

_SECTION = re.compile(r"^(\w+)\n((?:\d+ .*\n)+)", re.M)
_ENTRY = re.compile(r"^(\d+) (.*)$", re.M)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(\S+) \(.*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(ROOT )?%?(\S+) = .*? ([a-z][a-z\d-]*)\((.*?)\)(.*)$"
)
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%([^\s,{}]+)")
# Whoever reads a report looks for a line of the project, not of a library.
_LIBRARIES = str(pathlib.Path(jax.__file__).parents[1]) + os.sep


class Origin(NamedTuple):
  """What made a value."""

  operation: str  # As in a jaxpr, "dot_general"; or XLA's own, "copy".
  source: str  # "/home/me/model.py:12"; "" if XLA does not tell.


class _Instruction(NamedTuple):
  """A line of the text, `name = shape opcode(inside), attributes`."""

  computation: str
  opcode: str
  inside: str  # The number of a parameter; or the operands.
  attributes: str

  @property
  def operands(self) -> list[str]:
    """Names of instructions; with "#1" at the end, of an element."""
    return re.findall(r"%([^\s,()]+)", self.inside)


class Origins:
  """The origins of the values of a program."""

  def __init__(self, text: str):
    """Reads the text.

    Args:
      text: A compiled program, as `Compiled.as_text` returns it.
    """
    self._frames = _read_frames(text)
    self._instructions = {}
    self._roots = {}  # The name of the last instruction, by computation.
    self._callers = {}  # The name of the instruction, by computation.
    self._readers = {}  # The names of the instructions, by operand.
    computation = ""
    for line in text.splitlines():
      if match := _COMPUTATION.match(line):
        computation = match[1]
      elif match := _INSTRUCTION.match(line):
        root, name, opcode, inside, attributes = match.groups()
        instruction = _Instruction(computation, opcode, inside, attributes)
        self._instructions[name] = instruction
        for operand in instruction.operands:
          self._readers.setdefault(operand, []).append(name)
        if root:
          self._roots[computation] = name
        for called in _CALLED.findall(attributes):
          self._callers[called] = name

  def of(self, name: str, index: str = "") -> Origin:
    """Finds what made a value.

    XLA forgets where some products of matrices come from: then the line is that
    of the first instruction that reads the value and has one.

    Args:
      name: The instruction that defines it.
      index: If that defines a tuple, the number of the element.

    Returns:
      The origin. Its line is the innermost one outside of installed packages.
    """
    maker = self._find(name, index, set()) or name
    lines = (self._source(x) for x in (maker, *self._readers.get(name, ())))
    return Origin(self._operation(maker), next(filter(None, lines), ""))

  def _find(self, name: str, index: str, seen: set) -> str | None:
    """Returns the instruction that made a value, None if all were seen."""
    name, _, element = name.partition("#")
    key = (name, element or index)
    if key in seen:
      return None
    seen.add(key)
    others = self._same_value(*key)
    found = (self._find(*other, seen) for other in others)
    return next(filter(None, found), None) if others else name

  def _same_value(self, name: str, index: str) -> list[tuple[str, str]]:
    """Lists, as (name, index), where else the value of an instruction is."""
    instruction = self._instructions[name]
    opcode, operands = instruction.opcode, instruction.operands
    attributes = instruction.attributes
    if opcode in ("copy", "bitcast"):
      return [(operands[0], index)]
    if opcode == "dynamic-update-slice":
      return [(operands[1], "")]  # What a loop puts on its stack.
    if opcode == "get-tuple-element":
      number = re.search(r"index=(\d+)", attributes)
      return [(operands[0], number[1])]
    if opcode == "tuple" and index.isdigit():
      return [(operands[int(index)], "")]
    if opcode == "parameter" and instruction.computation in self._callers:
      name = self._callers[instruction.computation]
      caller = self._instructions[name]
      if caller.opcode == "while":
        return [(name, index)]
      return [(caller.operands[int(instruction.inside)], index)]
    results = {"fusion": "calls", "call": "to_apply", "while": "body"}
    if opcode not in results:
      return []
    called = re.search(rf"{results[opcode]}=%([^\s,{{}}]+)", attributes)
    others = [(self._roots[called[1]], index)]
    # What a loop only passes on was made before it.
    return others + ([(operands[0], index)] if opcode == "while" else [])

  def _operation(self, name):
    """Returns the operation that an instruction comes from."""
    instruction = self._instructions[name]
    # The last part of a path, as in "jit(f)/jvp()/while/body/tanh".
    found = re.search(r'op_name="[^"]*?([^"/]+)"', instruction.attributes)
    return found[1] if found else instruction.opcode

  def _source(self, name):
    """Returns the line of an instruction, "" if XLA does not tell."""
    attributes = self._instructions[name].attributes
    found = re.search(r"stack_frame_id=(\d+)", attributes)
    frame, lines = int(found[1]) if found else 0, []
    frames = dict(self._frames)
    while frame in frames:
      line, frame = frames.pop(frame)
      lines.append(line)
    own = [line for line in lines if not line.startswith(_LIBRARIES)]
    return (own or lines or [""])[0]


def _read_frames(text):
  """Maps the number of a stack frame to its line and its caller's number."""
  sections = {
    name: dict(_ENTRY.findall(body)) for name, body in _SECTION.findall(text)
  }
  files = sections.get("FileNames", {})
  locations, frames = (
    {
      number: dict(re.findall(r"(\w+)=(\d+)", entry))
      for number, entry in sections.get(name, {}).items()
    }
    for name in ("FileLocations", "StackFrames")
  )
  # The first frame has no caller. jax 0.10 to 0.12 write 1 for that, and what
  # calls the others one too high, too.
  none = int(frames.get("1", {}).get("parent_frame_id", 0))
  found = {}
  for number, frame in frames.items():
    location = locations[frame["file_location_id"]]
    file = files[location["file_name_id"]].strip('"')
    caller = int(frame.get("parent_frame_id", 0)) - none
    found[int(number)] = f"{file}:{location['line']}", caller
  return found
