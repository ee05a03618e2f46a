"""Time and memory of programs."""

import pathlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from slim.memory import MemoryReport

Name = TypeVar("Name", bound=Hashable)


def seconds_in_turns(
  programs: Sequence[Callable[[], Any]], rounds: int, calls: int = 2
) -> list[list[float]]:
  """Times programs in turns, so that all of them see the same machine.

  Args:
    programs: Called without arguments.
    rounds: Turns of each program.
    calls: Calls in a turn, of which the last is timed. The first one also pays
      for clearing the memory that the program before it has given back.

  Returns:
    The seconds of each program, one for each round.
  """
  seconds = [[] for _ in programs]
  for _ in range(rounds):
    for program, found in zip(programs, seconds, strict=True):
      for _ in range(calls - 1):
        jax.block_until_ready(program())
      start = time.perf_counter()
      jax.block_until_ready(program())
      found.append(time.perf_counter() - start)
  return seconds


def median_seconds(
  programs: Mapping[Name, Callable[[], Any] | None],
  rounds: int,
  calls: int = 2,
) -> dict[Name, float | None]:
  """Times programs in turns, and returns the median of each.

  Args:
    programs: By name; a program that is None is not timed.
    rounds: Turns of each program.
    calls: Calls in a turn, of which the last is timed.

  Returns:
    The median seconds by name, None where the program is.
  """
  timed = {name: x for name, x in programs.items() if x is not None}
  seconds = seconds_in_turns(list(timed.values()), rounds, calls)
  medians = {
    name: float(np.median(found))
    for name, found in zip(timed, seconds, strict=True)
  }
  return {name: medians.get(name) for name in programs}


def memory_columns(report: MemoryReport) -> dict[str, float]:
  """Returns a compiled gradient's memory in MiB, by the columns of a table."""
  return {
    "activation_MiB": report.temporary_bytes / 2**20,
    "arguments_MiB": report.argument_bytes / 2**20,
    "outputs_MiB": report.output_bytes / 2**20,
  }


def process_bytes(name: str) -> int:
  """Returns a size of this process on Linux.

  Args:
    name: A line of /proc/self/status: "VmRSS", the memory in use, or "VmHWM",
      the most that was in use so far.

  Returns:
    Bytes.

  Raises:
    ValueError: If there is no such line, as on other systems than Linux.
  """
  status = pathlib.Path("/proc/self/status")
  for line in status.read_text().splitlines() if status.exists() else ():
    if line.startswith(name):
      return int(line.split()[1]) * 1024
  raise ValueError(f"this needs Linux: {status} must have a line {name}")
