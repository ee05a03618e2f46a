"""A trace of some training steps, by `jax.profiler`."""

import contextlib
import logging
import os
from collections.abc import Iterator

import jax

from slim.runs.progress import Progress

_LOG = logging.getLogger("slim.train")


class Profiler:
  """Traces the steps that are asked for, to `workdir/profile`.

  What a run does between two of them, such as an evaluation, is in the trace,
  too, but in no step of it.
  """

  def __init__(
    self, workdir: str, steps: tuple[int, ...], start: int, progress: Progress
  ):
    """Says so if the steps have been done already.

    Args:
      workdir: The folder of the run.
      steps: The first and the last step, as the log counts them: the first
        update of a run is step 1. (): none.
      start: Updates done so far.
      progress: Waits for steps, and leaves out the time that a trace takes to
        begin and to end.
    """
    self._folder = os.path.join(workdir, "profile")
    self._steps = range(steps[0], steps[1] + 1) if steps else range(0)
    self._progress = progress
    self._tracing = False
    if steps and start >= steps[1]:
      _LOG.info("config.profile.steps=%s: done before, nothing to trace", steps)

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Traces what is done inside, if the step is one of those asked for.

    Args:
      number: The step.

    Yields:
      Nothing.

    Raises:
      FloatingPointError: If a loss or a gradient is no finite number.
    """
    if number not in self._steps:
      yield
      return
    if not self._tracing:
      self._progress.flush()  # The step before is not part of the trace.
      with self._progress.paused():
        jax.profiler.start_trace(self._folder)
      self._tracing = True
    with jax.profiler.StepTraceAnnotation("train", step_num=number):
      yield
    if number == self._steps[-1]:
      self._progress.flush()  # The device may be computing it still.
      with self._progress.paused():
        self.close()

  def close(self) -> None:
    """Ends a trace that is under way, and logs where it lies."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
      _LOG.info("trace of training steps: %s", self._folder)
