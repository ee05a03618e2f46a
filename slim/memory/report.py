"""Total memory of a compiled program."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from slim.targets import HERE, Target


class MemoryReport(NamedTuple):
  """Memory of a compiled program, in bytes.

  Attributes:
    argument_bytes: All arguments.
    output_bytes: All outputs.
    aliased_bytes: Outputs that overwrite donated arguments.
    temporary_bytes: All other buffers. For a gradient these are the
      activations.
    device_peak_bytes: Peak of the process so far; None if the device does not
      count it, or if the program is for another one.
  """

  argument_bytes: int
  output_bytes: int
  aliased_bytes: int
  temporary_bytes: int
  device_peak_bytes: int | None

  @property
  def total_bytes(self) -> int:
    """Memory that the program needs to run."""
    needed = self.argument_bytes + self.output_bytes + self.temporary_bytes
    return needed - self.aliased_bytes


def memory_report(
  fn: Callable[..., Any],
  *args: Any,
  compiler_options: Mapping[str, Any] | None = None,
  target: Target = HERE,
) -> MemoryReport:
  """Asks the compiler how much memory a function needs; nothing is run.

  Args:
    fn: A function. Pass a jitted function to respect its donations.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.
    compiler_options: As for `jax.jit`.
    target: What to compile for; this machine need not have it.

  Returns:
    The report. `device_peak_bytes` is not about `fn`: it is the peak of the
    whole process on its first device so far, which cannot be reset. To measure
    a program on a device, run it in a process of its own and call this
    afterwards. It is None on CPUs, which do not count.

  Raises:
    DoesNotFitError: If the compiler refuses a program of this size, which only
      that for TPUs does.
    ValueError: If the compiler for the target is not installed.
  """
  compiled = target.compile(fn, *args, options=compiler_options)
  return report_of(compiled, target)


def report_of(
  compiled: jax.stages.Compiled, target: Target = HERE
) -> MemoryReport:
  """Returns the report of a program that is compiled for a target."""
  memory: Any = compiled.memory_analysis()
  device: dict[str, int] = {}
  if target == HERE:
    device = jax.local_devices()[0].memory_stats() or {}
  return MemoryReport(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    aliased_bytes=memory.alias_size_in_bytes,
    temporary_bytes=target.temporary_bytes(compiled),
    device_peak_bytes=device.get("peak_bytes_in_use"),
  )
