"""What is live at each instruction of a program, and what made it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from slim.memory.live_ranges import LiveRanges
from slim.memory.report import MemoryReport, lower, report_of
from slim.memory.source_lines import Origins


class Buffer(NamedTuple):
  """A temporary buffer of a program, and what made the value in it."""

  size: int  # Bytes.
  shape: str  # As "f32[16,1024]".
  operation: str  # As in a jaxpr, "dot_general"; or XLA's own, "copy".
  source: str  # "/home/me/model.py:12"; "" if XLA does not tell.


class MemoryTimeline(NamedTuple):
  """The temporary memory of a program at each of its instructions."""

  live: np.ndarray  # [instructions], int64, bytes; the body of a loop once.
  buffers: tuple[Buffer, ...]  # Those at the peak, the largest first.

  @property
  def peak_bytes(self) -> int:
    """The most bytes that are live at once."""
    return int(self.live.max())


def memory_timeline(
  fn: Callable[..., Any],
  *args: Any,
  compiler_options: Mapping[str, Any] | None = None,
) -> MemoryTimeline:
  """Finds what is live at each instruction of a function, compiled only.

  Counted are temporary buffers, as XLA has assigned them: neither arguments nor
  results. Values at one address, as of an update in place, count once. The
  order is that of the program, not of time: the body of a loop is in it once,
  together with all that is live around the loop.

  Args:
    fn: A function, or what `jax.jit` has made of it.
    *args: Its arguments: arrays, or `jax.ShapeDtypeStruct`s.
    compiler_options: As for `jax.jit`.

  Returns:
    The timeline. Its peak is the `temporary_bytes` of `memory_report`, but for
    what lies unused between buffers.

  Raises:
    ValueError: If XLA describes its buffers in a form that is not known.
  """
  return analyse(fn, *args, compiler_options=compiler_options)[1]


def analyse(
  fn: Callable[..., Any],
  *args: Any,
  compiler_options: Mapping[str, Any] | None = None,
) -> tuple[MemoryReport, MemoryTimeline]:
  """Returns the report and the timeline of one compilation, see these."""
  with tempfile.TemporaryDirectory() as folder, _without_cache():
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    compiled = lower(fn, *args).compile({**(compiler_options or {}), **options})
    ranges = LiveRanges(folder)
  live = np.array(
    [ranges.count_bytes(i) for i in range(ranges.num_instructions)], np.int64
  )
  origins = Origins(ranges.program)
  buffers = [
    Buffer(x.size, x.shape, *origins.of(x.name, x.index))
    for x in ranges.values_at(int(live.argmax()))
  ]
  buffers.sort(reverse=True)
  return report_of(compiled), MemoryTimeline(live, tuple(buffers))


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
  """Compiles anew what JAX has in its cache: XLA says nothing about that."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()  # It looks at the setting only once.
  try:
    yield
  finally:
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()
