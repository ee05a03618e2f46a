"""The search: compile the fastest first, until one fits."""

import ctypes
import pathlib
import resource
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from slim.config.byte_sizes import format_size
from slim.plan.options import Option

# What a training process on a CPU needs besides its arrays, and before it has
# compiled: what the compiler leaves behind, and the workspace of products.
# 150 to 240 MiB were found.
_LEFT_BYTES = 256 * 2**20


class Row(NamedTuple):
  """An option, what it is expected to take, and what it needs; bytes."""

  option: Option
  time: float  # Over that of "full".
  formula_bytes: int | None = None  # `slim.plan.memory_estimate`.
  activation_bytes: int | None = None  # As compiled; None: it was not.
  total_bytes: int | None = None  # With all that is held besides.


class Plan(NamedTuple):
  """What was tried, the fastest first."""

  rows: tuple[Row, ...]
  budget: int  # Bytes.
  resident_bytes: dict[str, int]  # Needed by every option, by name.

  @property
  def choice(self) -> Row | None:
    """The fastest that fits, or None."""
    for row in self.rows:
      if row.total_bytes is not None and row.total_bytes <= self.budget:
        return row
    return None

  def describe_failure(self) -> str:
    """One line: what the budget must be, where nothing fits."""
    least = min(self.rows, key=lambda row: row.total_bytes)
    return (
      f"must be at least {format_size(least.total_bytes)}, of which "
      f"activations are {format_size(least.activation_bytes)} "
      f"({least.option}), got {format_size(self.budget)}"
    )

  def __str__(self) -> str:
    """A table for people."""
    rows = [("gradient", "C", "time", "formula", "activations", "total", "")]
    for row in self.rows:
      compiled = row.total_bytes is not None
      fits = compiled and row.total_bytes <= self.budget
      rows.append(
        (
          row.option.name,
          str(row.option.chunk_size or ""),
          f"{row.time:.2f}",
          "" if row.formula_bytes is None else format_size(row.formula_bytes),
          format_size(row.activation_bytes) if compiled else "",
          format_size(row.total_bytes) if compiled else "",
          "fits" if fits else "",
        )
      )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = "\n".join(
      "  ".join(
        [row[0].ljust(widths[0])]
        + [x.rjust(n) for x, n in zip(row[1:], widths[1:], strict=True)]
      ).rstrip()
      for row in rows
    )
    resident = ", ".join(
      f"{name} {format_size(n)}" for name, n in self.resident_bytes.items() if n
    )
    return f"{table}\nthe total is activations and {resident}"


def search(
  rows: Sequence[Row],
  budget: int,
  resident_bytes: dict[str, int],
  compile_option: Callable[[Option], tuple[int, int]],
) -> Plan:
  """Compiles options in turn until one fits.

  Args:
    rows: The options, the fastest first.
    budget: Bytes.
    resident_bytes: Bytes that every option needs, by name. On CPUs those of the
      process are added.
    compile_option: Returns the activations of an option, in bytes, and its peak
      besides `resident_bytes`.

  Returns:
    The plan.
  """
  rows = list(rows)
  for i, row in enumerate(rows):
    activations, peak = compile_option(row.option)
    # Measure the process after it has compiled.
    resident_bytes = resident_bytes | {"the process": _process_bytes()}
    total = peak + sum(resident_bytes.values())
    rows[i] = row._replace(activation_bytes=activations, total_bytes=total)
    if total <= budget:
      break
  return Plan(tuple(rows), budget, resident_bytes)


def _process_bytes():
  """What the process itself needs where it shares the memory of the device."""
  if jax.default_backend() != "cpu":
    return 0
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():  # As on a Mac, which counts the most so far, in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _LEFT_BYTES
  # glibc keeps what the compiler has freed, more with each option.
  trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
  trim(0)
  resident_pages = int(statm.read_text().split()[1])
  return resident_pages * resource.getpagesize() + _LEFT_BYTES
