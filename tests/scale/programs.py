"""The collectives of a compiled program, and whether a loop repeats them."""

import math
import re
from typing import NamedTuple

_COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
  r"(?:body|condition|to_apply|calls|branch_computations|called_computations)="
  r"\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(_COLLECTIVES)})(?:-start)?\(")


class Collective(NamedTuple):
  """A collective of a program."""

  kind: str
  elements: int  # Of its largest result.
  in_loop: bool


def list_collectives(compiled):
  """Lists the collectives of a compiled program."""
  lines_of, calls, bodies, name = {}, {}, set(), None
  for line in compiled.as_text().splitlines():
    if match := _COMPUTATION.match(line):
      name = match[1]
      lines_of[name], calls[name] = [], set()
    elif name is not None:
      lines_of[name].append(line)
      for group in _CALLED.findall(line):
        calls[name] |= {x.strip(" %") for x in group.split(",")}
      if match := re.search(r" while\(.*body=%?([\w.\-]+)", line):
        bodies.add(match[1])
  looped, found = set(), bodies
  while found:
    looped |= found
    found = set().union(*(calls[x] for x in found)) & set(calls) - looped
  return [
    Collective(match[2], _largest(match[1]), name in looped)
    for name, lines in lines_of.items()
    for match in map(_OPERATION.search, lines)
    if match
  ]


def _largest(shapes):
  """The elements of the largest of some shapes, as in (f32[2,3], f32[])."""
  sizes = re.findall(r"\w+\[([\d,]*)\]", shapes)
  return max(math.prod(int(n) for n in size.split(",") if n) for size in sizes)
