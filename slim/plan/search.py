"""Compile the fastest candidates first, until one fits."""

import ctypes
import pathlib
import resource
from collections.abc import Callable, Sequence
from typing import NamedTuple

from slim.plan.gradient_choice import GradientChoice
from slim.plan.results import Candidate, CompiledMemory, Plan
from slim.runs.stages import stage
from slim.targets import HERE, DoesNotFitError, Target

# What a training process on a CPU needs besides its arrays and the memory it
# has before training: leftovers of the compiler, and workspaces of matrix
# products. 150 to 240 MiB were measured.
_CPU_OVERHEAD_BYTES = 256 * 2**20


class CompiledSize(NamedTuple):
  """Memory of a compiled gradient step, in bytes, without resident arrays."""

  activation_bytes: int
  peak_bytes: int  # With the programs that run between gradients.


def search(
  candidates: Sequence[Candidate],
  budget: int,
  resident_bytes: dict[str, int],
  compile_gradient: Callable[[GradientChoice], CompiledSize],
  target: Target = HERE,
) -> Plan:
  """Compiles candidates in turn until one fits.

  Args:
    candidates: The candidates, the fastest first.
    budget: Bytes.
    resident_bytes: Bytes that every candidate needs, by name. On CPUs those of
      the process are added.
    compile_gradient: Compiles a gradient and returns its memory.
    target: What it compiles for.

  Returns:
    The plan.
  """
  tried = list(candidates)
  for i, candidate in enumerate(tried):
    with stage(f"compiling candidate {i + 1}, {candidate.gradient}"):
      try:
        size = compile_gradient(candidate.gradient)
      except DoesNotFitError as error:
        size = CompiledSize(error.temporary_bytes, error.temporary_bytes)
    if target.platform == "cpu":  # Measure the process after it has compiled.
      resident_bytes = resident_bytes | {"the process": process_bytes()}
    total = size.peak_bytes + sum(resident_bytes.values())
    memory = CompiledMemory(size.activation_bytes, total)
    tried[i] = candidate._replace(memory=memory)
    if total <= budget:
      break
  return Plan(tuple(tried), budget, resident_bytes)


def process_bytes() -> int:
  """Returns what this process has in memory, and what training adds to it."""
  statm = pathlib.Path("/proc/self/statm")
  if not statm.exists():  # macOS, where ru_maxrss is in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak + _CPU_OVERHEAD_BYTES
  # glibc keeps what the compiler frees, more with each compilation.
  trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
  trim(0)
  resident_pages = int(statm.read_text().split()[1])
  return resident_pages * resource.getpagesize() + _CPU_OVERHEAD_BYTES
