"""The search: compile options, the fastest first, until one fits."""

import ctypes
import pathlib
import resource
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from slim.config.byte_sizes import format_size
from slim.plan.options import Option

# What a training process on a CPU will need besides its arrays and what it has
# now: the remains of the compiler, and the workspace of matrix products. 150 to
# 240 MiB were measured.
_LEFT_BYTES = 256 * 2**20


class Row(NamedTuple):
  """An option with its predicted time and its memory in bytes."""

  option: Option
  time: float  # Predicted, relative to "full".
  formula_bytes: int | None = None  # Estimated activations.
  activation_bytes: int | None = None  # Compiled; None: not compiled.
  total_bytes: int | None = None  # With everything else that is resident.


class Plan(NamedTuple):
  """The options, the fastest first; those that were tried are compiled."""

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
    """Returns one line that says how large the budget must be."""
    least = min(self.rows, key=lambda row: row.total_bytes or 0)
    return (
      f"must be at least {_format(least.total_bytes)}, of which "
      f"activations are {_format(least.activation_bytes)} "
      f"({least.option}), got {format_size(self.budget)}"
    )

  def __str__(self) -> str:
    """Returns a table for people."""
    rows = [("gradient", "C", "time", "formula", "activations", "total", "")]
    for row in self.rows:
      fits = row.total_bytes is not None and row.total_bytes <= self.budget
      rows.append(
        (
          row.option.name,
          str(row.option.chunk_size or ""),
          f"{row.time:.2f}",
          _format(row.formula_bytes),
          _format(row.activation_bytes),
          _format(row.total_bytes),
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


def _format(size: int | None) -> str:
  """Formats a size in bytes; None: not known."""
  return "" if size is None else format_size(size)


def _process_bytes() -> int:
  """Returns the memory of the process itself, if it shares the device's."""
  if jax.default_backend() != "cpu":
    return 0
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():  # On a Mac, use the peak so far, in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _LEFT_BYTES
  # Return to the system what the compiler has freed; glibc keeps it.
  trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
  trim(0)
  resident_pages = int(statm.read_text().split()[1])
  return resident_pages * resource.getpagesize() + _LEFT_BYTES
