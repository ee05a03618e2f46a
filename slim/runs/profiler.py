"""A trace of selected training steps, by `jax.profiler`."""

import contextlib
import logging
import os
from collections.abc import Iterator

import jax

from slim.runs.progress import Progress

_LOG = logging.getLogger("slim.train")


class Profiler:
  """Traces selected steps, to `workdir/profile`.

  Work between two of these steps, such as an evaluation, is in the trace, too,
  but outside of its steps.
  """

  def __init__(
    self, workdir: str, steps: tuple[int, ...], start: int, progress: Progress
  ):
    """Logs a line if the steps have been done already.

    Args:
      workdir: The folder of the run.
      steps: The first and the last step; the first update of a run is step 1,
        as in the log. (): none.
      start: Updates done so far.
      progress: Waits for steps, and excludes the time to start and stop the
        trace from the reported speed.
    """
    self._folder = os.path.join(workdir, "profile")
    self._steps = range(steps[0], steps[1] + 1) if steps else range(0)
    self._progress = progress
    self._tracing = False
    if steps and start >= steps[1]:
      _LOG.info(
        "config.profile.steps=%s: already done, nothing to trace", steps
      )

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Traces the work in this context, if the step is selected.

    Args:
      number: The step.

    Yields:
      Nothing.

    Raises:
      FloatingPointError: If a loss or a gradient is not finite.
    """
    if number not in self._steps:
      yield
      return
    if not self._tracing:
      self._progress.flush()  # Keep the step before out of the trace.
      with self._progress.paused("profile"):
        jax.profiler.start_trace(self._folder)
      self._tracing = True
    with jax.profiler.StepTraceAnnotation("train", step_num=number):
      yield
    if number == self._steps[-1]:
      self._progress.flush()  # Wait for the device.
      with self._progress.paused("profile"):
        self.close()

  def close(self) -> None:
    """Ends a trace that is under way, and logs its location."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
      _LOG.info("trace of training steps: %s", self._folder)
