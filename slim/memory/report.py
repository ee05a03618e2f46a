"""The memory of a compiled program, in totals."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class MemoryReport(NamedTuple):
  """The memory of a compiled program, in bytes."""

  argument_bytes: int
  output_bytes: int
  aliased_bytes: int  # Of results that are written over donated arguments.
  temporary_bytes: int  # Of a gradient these are the activations.
  device_peak_bytes: int | None  # Of the process so far; None: not known.

  @property
  def total_bytes(self) -> int:
    """What has to be there at once for the program to run."""
    needed = self.argument_bytes + self.output_bytes + self.temporary_bytes
    return needed - self.aliased_bytes


def memory_report(
  fn: Callable[..., Any],
  *args: Any,
  compiler_options: Mapping[str, Any] | None = None,
) -> MemoryReport:
  """Asks the compiler what memory a function needs; nothing is run.

  Args:
    fn: A function, or what `jax.jit` has made of it, with its donations.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.
    compiler_options: As for `jax.jit`.

  Returns:
    The report. `device_peak_bytes` is not of `fn`: it is the most that the
    process has had in use on its first device so far, and nothing sets it back.
    To measure a program on a device, run it in a process of its own, and call
    this after it. It is None where a device does not count, as CPUs do not.
  """
  return report_of(lower(fn, *args).compile(dict(compiler_options or {})))


def lower(fn: Callable[..., Any], *args: Any) -> jax.stages.Lowered:
  """Lowers a function that may or may not have been given to `jax.jit`."""
  # A second `jax.jit` would forget which arguments the first one donates.
  return (fn if hasattr(fn, "lower") else jax.jit(fn)).lower(*args)


def report_of(compiled: jax.stages.Compiled) -> MemoryReport:
  """Returns the report of a compiled program."""
  # Not its peak_memory_in_bytes: on CPUs that is arguments and results alone.
  memory = compiled.memory_analysis()
  device = jax.local_devices()[0].memory_stats() or {}
  return MemoryReport(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    aliased_bytes=memory.alias_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    device_peak_bytes=device.get("peak_bytes_in_use"),
  )
