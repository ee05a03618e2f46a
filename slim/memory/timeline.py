"""Live buffers at each instruction of a compiled program."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from slim.memory.live_ranges import LiveRanges
from slim.memory.report import MemoryReport, report_of
from slim.memory.source_lines import Origins
from slim.targets import HERE, Target


class Buffer(NamedTuple):
  """A temporary buffer of a program, and the origin of its value.

  Attributes:
    size: Bytes.
    shape: Such as "f32[16,1024]".
    operation: A JAX primitive such as "dot_general", or an XLA opcode such as
      "copy".
    source: Such as "/home/me/model.py:12"; "" if XLA does not record it.
  """

  size: int
  shape: str
  operation: str
  source: str


class MemoryTimeline(NamedTuple):
  """Temporary memory at each instruction of a program.

  Attributes:
    live: [instructions], int64, live bytes. The body of a loop appears once.
    buffers: The live buffers at the peak, the largest first.
    program: The text of the program, as XLA prints it.
  """

  live: np.ndarray
  buffers: tuple[Buffer, ...]
  program: str

  @property
  def peak_bytes(self) -> int:
    """The largest number of live bytes."""
    return int(self.live.max())


def memory_timeline(
  fn: Callable[..., Any],
  *args: Any,
  compiler_options: Mapping[str, Any] | None = None,
  target: Target = HERE,
) -> MemoryTimeline:
  """Finds the live buffers at each instruction of a function; nothing is run.

  It counts the temporary buffers that XLA assigns, without arguments and
  outputs. Values at one address, such as those of an in-place update, count
  once. Instructions are in program order: the body of a loop appears once,
  together with everything that is live around the loop.

  Args:
    fn: A function, jitted or not.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.
    compiler_options: As for `jax.jit`.
    target: What to compile for; this machine need not have it.

  Returns:
    The timeline. Its peak is the `temporary_bytes` of `memory_report`, without
    unused gaps between buffers.

  Raises:
    ValueError: If this version of XLA describes its buffers in another format.
  """
  return analyze(fn, *args, compiler_options=compiler_options, target=target)[1]


def analyze(
  fn: Callable[..., Any],
  *args: Any,
  compiler_options: Mapping[str, Any] | None = None,
  target: Target = HERE,
) -> tuple[MemoryReport, MemoryTimeline]:
  """Compiles a function once; returns its report and its timeline."""
  with tempfile.TemporaryDirectory() as folder, _without_cache():
    options = dict(compiler_options or {})
    options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    compiled = target.compile(fn, *args, options=options)
    ranges = LiveRanges(folder)
  live = np.array(
    [ranges.count_bytes(i) for i in range(ranges.num_instructions)], np.int64
  )
  origins = Origins(ranges.program)
  buffers = [
    Buffer(x.size, x.shape, *origins.find(x.name, x.element))
    for x in ranges.values_at(int(live.argmax()))
  ]
  buffers.sort(reverse=True)
  timeline = MemoryTimeline(live, tuple(buffers), compiled.as_text() or "")
  return report_of(compiled, target), timeline


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
  """Disables the compilation cache, because XLA dumps only what it compiles."""
  config: Any = jax.config  # Its type does not list the settings.
  before = config.jax_enable_compilation_cache
  config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()  # JAX reads the setting once.
  try:
    yield
  finally:
    config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()
