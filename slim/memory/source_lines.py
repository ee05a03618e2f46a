"""Trace values of a compiled program to the source lines that compute them.

The text of a compiled program records, for most instructions, the JAX operation
and its stack frame. A value that only passes through an instruction, such as an
element of a loop's carry, is traced to the instruction that computes it. An
array that a loop fills row by row is traced to the row's value.
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
# Report a line of the user's project rather than of an installed package.
_LIBRARIES = str(pathlib.Path(jax.__file__).parents[1]) + os.sep


class Origin(NamedTuple):
  """The operation and the source line that computed a value.

  Attributes:
    operation: A JAX primitive such as "dot_general", or an XLA opcode such as
      "copy".
    source: Such as "/home/me/model.py:12"; "" if XLA does not record it.
  """

  operation: str
  source: str


class _Instruction(NamedTuple):
  """An instruction, `name = shape opcode(arguments), attributes`.

  Attributes:
    computation: Name of the computation that contains it.
    opcode: Such as "fusion".
    arguments: Text of the operands, or the number of a parameter.
    attributes: Rest of the line.
  """

  computation: str
  opcode: str
  arguments: str
  attributes: str

  @property
  def operands(self) -> list[str]:
    """Names of the operands. "name#1" is element 1 of a tuple."""
    return re.findall(r"%([^\s,()]+)", self.arguments)


class Origins:
  """The origins of the values of a compiled program."""

  def __init__(self, text: str):
    """Parses a program.

    Args:
      text: A compiled program, as `Compiled.as_text` returns it.
    """
    self._frames = _read_frames(text)
    self._instructions: dict[str, _Instruction] = {}
    self._roots: dict[str, str] = {}  # By computation: its result.
    self._callers: dict[str, str] = {}  # By computation: what calls it.
    self._users: dict[str, list[str]] = {}  # By operand: what reads it.
    computation = ""
    for line in text.splitlines():
      if match := _COMPUTATION.match(line):
        computation = match[1]
      elif match := _INSTRUCTION.match(line):
        root, name, opcode, arguments, attributes = match.groups()
        instruction = _Instruction(computation, opcode, arguments, attributes)
        self._instructions[name] = instruction
        for operand in instruction.operands:
          self._users.setdefault(operand, []).append(name)
        if root:
          self._roots[computation] = name
        for called in _CALLED.findall(attributes):
          self._callers[called] = name

  def find(self, name: str, element: str = "") -> Origin:
    """Finds the origin of a value.

    XLA drops the source of some matrix products. Their source is then that of
    the first instruction that reads the value.

    Args:
      name: The instruction that defines the value.
      element: If that is a tuple, the number of the element.

    Returns:
      The origin. Its source is the innermost line outside installed packages.
    """
    producer = self._trace(name, element, set()) or name
    sources = (self._source(x) for x in (producer, *self._users.get(name, ())))
    return Origin(self._operation(producer), next(filter(None, sources), ""))

  def _trace(
    self, name: str, element: str, seen: set[tuple[str, str]]
  ) -> str | None:
    """Returns the instruction that computes a value; None if all were seen."""
    name, _, suffix = name.partition("#")
    key = (name, suffix or element)
    if key in seen:
      return None
    seen.add(key)
    sources = self._forwarded_from(*key)
    found = (self._trace(*source, seen) for source in sources)
    return next(filter(None, found), None) if sources else name

  def _forwarded_from(self, name: str, element: str) -> list[tuple[str, str]]:
    """Lists (name, element) of the values that an instruction passes on."""
    instruction = self._instructions[name]
    opcode, operands = instruction.opcode, instruction.operands
    attributes = instruction.attributes
    if opcode in ("copy", "bitcast"):
      return [(operands[0], element)]
    if opcode == "dynamic-update-slice":
      return [(operands[1], "")]  # The row that is written.
    if opcode == "get-tuple-element":
      return [(operands[0], _match(r"index=(\d+)", attributes))]
    if opcode == "tuple" and element.isdigit():
      return [(operands[int(element)], "")]
    if opcode == "parameter" and instruction.computation in self._callers:
      name = self._callers[instruction.computation]
      caller = self._instructions[name]
      if caller.opcode == "while":
        return [(name, element)]
      return [(caller.operands[int(instruction.arguments)], element)]
    results = {"fusion": "calls", "call": "to_apply", "while": "body"}
    if opcode not in results:
      return []
    called = _match(rf"{results[opcode]}=%([^\s,{{}}]+)", attributes)
    sources = [(self._roots[called], element)]
    if opcode == "while":  # The loop may not change this element.
      sources.append((operands[0], element))
    return sources

  def _operation(self, name: str) -> str:
    """Returns the operation that an instruction comes from."""
    instruction = self._instructions[name]
    # The last part of a path such as "jit(f)/jvp()/while/body/tanh".
    found = _match(r'op_name="[^"]*?([^"/]+)"', instruction.attributes)
    return found or instruction.opcode

  def _source(self, name: str) -> str:
    """Returns the source line of an instruction, "" if it is not recorded."""
    attributes = self._instructions[name].attributes
    frame = int(_match(r"stack_frame_id=(\d+)", attributes) or 0)
    lines = []
    frames = dict(self._frames)
    while frame in frames:
      line, frame = frames.pop(frame)
      lines.append(line)
    own = [line for line in lines if not line.startswith(_LIBRARIES)]
    return (own or lines or [""])[0]


def _match(pattern: str, text: str) -> str:
  """Returns the first group of the first match, "" if there is none."""
  found = re.search(pattern, text)
  return found[1] if found else ""


def _read_frames(text: str) -> dict[int, tuple[str, int]]:
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
  # The first frame has no caller. jax 0.10 to 0.12 write 1 there, and number
  # all callers one too high.
  no_caller = int(frames.get("1", {}).get("parent_frame_id", 0))
  found = {}
  for number, frame in frames.items():
    location = locations[frame["file_location_id"]]
    file = files[location["file_name_id"]].strip('"')
    caller = int(frame.get("parent_frame_id", 0)) - no_caller
    found[int(number)] = f"{file}:{location['line']}", caller
  return found
