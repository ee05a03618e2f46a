"""List the collectives of a compiled program, and how often each runs.

XLA may merge, move or add collectives, so they are read from the text of the
program that it has compiled.
"""

import itertools
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

_KINDS = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
  r"(?:body|to_apply|calls|branch_computations|called_computations)="
  r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TURNS = re.compile(r'known_trip_count[^0-9]*"?(\d+)')
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(_KINDS)})(?:-start)?\(")
_SHAPE = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=(\{\{.*?\}\})")
_COUNTED = re.compile(
  r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")


class Collective(NamedTuple):
  """A collective of a program.

  Attributes:
    kind: "all-gather", "all-reduce", "all-to-all", "collective-permute" or
      "reduce-scatter".
    axes: The mesh axes whose devices take part; () if they are no axes.
    times: How often it runs in one call: the product of the turns of the loops
      around it. A loop of unknown length counts once.
    in_loop: Whether it is in a loop.
    result_bytes: The size of its result on a device.
    received_bytes: What a device receives each time, in a ring.
  """

  kind: str
  axes: tuple[str, ...]
  times: int
  in_loop: bool
  result_bytes: int
  received_bytes: int


def list_collectives(program: str, mesh: Mesh) -> list[Collective]:
  """Lists the collectives of a compiled program.

  Args:
    program: Its text, from `jax.stages.Compiled.as_text`.
    mesh: The mesh that it is compiled for.

  Returns:
    The collectives, in the order of the text.
  """
  lines_of: dict[str, list[str]] = {}
  entry = ""
  lines: list[str] = []
  for line in program.splitlines():
    if match := _COMPUTATION.match(line):
      lines = lines_of.setdefault(match[1], [])
      entry = match[1] if line.startswith("ENTRY") else entry
    else:
      lines.append(line)
  groups = _groups_of_axes(mesh)
  found = []

  def visit(name: str, times: int, in_loop: bool) -> None:
    for line in lines_of.get(name, ()):
      if match := _OPERATION.search(line):
        found.append(_read(line, match, groups, times, in_loop))
      turns = 1
      is_loop = " while(" in line
      if is_loop and (known := _TURNS.search(line)):
        turns = int(known[1])
      for called in _CALLED.findall(line):
        for other in called.strip("{}").split(","):
          visit(other.strip(" %"), times * turns, in_loop or is_loop)

  visit(entry, 1, False)
  return found


def summarize(collectives: Iterable[Collective]) -> str:
  """Formats what a device sends and receives in one call.

  Args:
    collectives: Those of a program.

  Returns:
    Lines of text: axes and kind, how often, and what a device receives.
  """
  totals: dict[tuple[str, str], list[float]] = {}
  for x in collectives:
    row = totals.setdefault((" × ".join(x.axes) or "-", x.kind), [0, 0])
    row[0] += x.times
    row[1] += x.times * x.received_bytes
  width = max((len(axes) for axes, _ in totals), default=0)
  return "\n".join(
    f"  {axes:<{width}}  {kind:<18}  {times:>7,} times  "
    f"{received / 2**20:>11,.2f}"
    for (axes, kind), (times, received) in sorted(totals.items())
  )


def _read(line, match, groups, times, in_loop):
  """Reads the line of a collective."""
  kind = match[2]
  result = match[1]
  if f"{kind}-start(" in line and kind != "all-reduce":
    result = _second(result)  # The first are the operands.
  size = sum(_num_bytes(*shape) for shape in _SHAPE.findall(result))
  group = _read_group(line)
  axes = groups.get(group, ())
  count = 2 if kind == "collective-permute" else len(group[0]) if group else 1
  received = {
    "all-gather": size * (count - 1) // count,
    "all-reduce": 2 * size * (count - 1) // count,
    "all-to-all": size * (count - 1) // count,
    "collective-permute": size,
    "reduce-scatter": size * (count - 1),
  }[kind]
  return Collective(kind, axes, times, in_loop, size, received)


def _second(text):
  """The second element of a tuple, as in ((f32[2], f32[3]), f32[4])."""
  depth, begin, parts = 0, 1, []
  for i, letter in enumerate(text):
    depth += (letter in "([{") - (letter in ")]}")
    if depth == 0 or (depth == 1 and letter == ","):
      parts.append(text[begin:i])
      begin = i + 1
  return parts[1]


def _num_bytes(kind, bits, shape):
  """The bytes of an array, as in f32[2,3]."""
  size = math.prod(int(n) for n in shape.split(",") if n)
  return size * (int(bits) if bits else 8) // 8 if kind != "pred" else size


def _read_group(line):
  """Which devices take part together, as tuples of their numbers.

  XLA lists them, or counts them, or since jax 0.12 names the axes of a mesh.
  """
  if match := _NAMED.search(line):
    sizes = {x: int(n) for x, n in re.findall(r"'(\w+)'=(\d+)", match[1])}
    ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
    axes = [list(sizes).index(x) for x in re.findall(r"'(\w+)'", match[2])]
    return _groups_along(ids, axes)
  if match := _COUNTED.search(line):
    shape, sizes = ([int(n) for n in match[i].split(",")] for i in (1, 2))
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    if match[3]:
      devices = devices.transpose([int(n) for n in match[3].split(",")])
    return _normal(devices.reshape(shape).tolist())
  if match := _LISTED.search(line):
    groups = re.findall(r"\{([\d,]+)\}", match[1][1:-1])
    return _normal([int(n) for n in group.split(",")] for group in groups)
  return ()


def _groups_along(ids, axes):
  """The groups of devices that differ along some axes only."""
  size = math.prod(ids.shape[i] for i in axes)
  last = np.moveaxis(ids, axes, range(-len(axes), 0))
  return _normal(last.reshape(-1, size).tolist())


def _normal(groups):
  return tuple(sorted(tuple(sorted(group)) for group in groups))


def _groups_of_axes(mesh):
  """The groups of devices that each set of axes makes, and their rings."""
  found = {}
  ids = np.arange(mesh.size).reshape(mesh.devices.shape)
  numbers = range(len(mesh.axis_names))
  for count in range(1, len(mesh.axis_names) + 1):
    for axes in itertools.combinations(numbers, count):
      names = tuple(mesh.axis_names[i] for i in axes)
      size = math.prod(mesh.devices.shape[i] for i in axes)
      found[_groups_along(ids, axes)] = names
      groups = np.moveaxis(ids, axes, range(-count, 0)).reshape(-1, size)
      rings = np.stack([groups, np.roll(groups, -1, 1)], -1).reshape(-1, 2)
      found.setdefault(_normal(rings.tolist()), names)
  return found
