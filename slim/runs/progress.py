"""Reports during a run: one record and one log line every few steps."""

import contextlib
import datetime
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from slim.runs import metrics
from slim.runs.skips import Skips, check_finite
from slim.types import Sums

_LOG = logging.getLogger("slim.train")


class Progress:
  """Reads the results of a step while the device computes the next one.

  A report covers the steps since the last report. Its sums are part of the
  checkpoint, so a resumed run makes the same reports.
  """

  def __init__(
    self,
    writer: metrics.MetricsWriter,
    *,
    step: int,
    num_steps: int,
    log_every: int,
    tokens_per_step: int,
    flops_per_step: int,
    learning_rate: Callable[[int], jax.typing.ArrayLike],
    pauses: dict[str, int],
    skip_above: float | None = None,
    max_skipped: int = 0,
    stored: dict[str, Any] | None = None,
  ):
    """Starts the clock.

    Args:
      writer: Writes the records.
      step: Updates done so far.
      num_steps: Updates in the whole run.
      log_every: Updates per report.
      tokens_per_step: B·T.
      flops_per_step: FLOPs of the model in one update.
      learning_rate: Of an update, counted from 0.
      pauses: After how many updates each kind of pause occurs.
      skip_above: As for `make_update_step`.
      max_skipped: Updates that may be skipped in the whole run.
      stored: What `to_record` returned when the run was saved; None: it starts.
    """
    stored = stored or {
      "window": (0.0, 0.0, 0.0),
      "seconds": 0.0,
      "skipped": 0,
      "tokens": 0,
      "gradient_norm": None,
    }
    self._tokens = stored["tokens"]
    self._norm: float | None = stored["gradient_norm"]
    self._report_sums = Sums(*stored["window"])
    self._seconds = stored["seconds"]
    self._began = time.monotonic()
    self._learning_rate = learning_rate
    self._pauses = pauses
    self._skips = Skips(skip_above, max_skipped, stored["skipped"])
    self._pause_seconds: dict[str, list[float]] = {}
    self._writer = writer
    self._num_steps = num_steps
    self._log_every = log_every
    self._tokens_per_step = tokens_per_step
    self._flops_per_step = flops_per_step
    self._timed_from = step
    self._started = time.perf_counter()
    self._pending: tuple[int, Sums, jax.Array, int] | None = None

  def add(
    self, step: int, sums: Sums, norm: jax.Array, activation_bytes: int
  ) -> None:
    """Adds the results of a step, and reads those of the step before it.

    Args:
      step: Updates done, including this one.
      sums: Totals over the batch; the device may still compute them.
      norm: [], float32, norm of the mean gradient; likewise.
      activation_bytes: Memory of the step's gradient program.

    Raises:
      FloatingPointError: If the loss or the gradient is not finite.
    """
    previous, self._pending = self._pending, None
    if previous:
      self._read(*previous)
    self._pending = (step, sums, norm, activation_bytes)

  def to_record(self) -> dict[str, Any]:
    """Returns what a resumed run needs to make the same reports, as JSON."""
    return {
      "window": list(self._report_sums),
      "seconds": self._elapsed(),
      "skipped": self._skips.count,
      "tokens": self._tokens,
      "gradient_norm": self._norm,
      "last_record": self._writer.last_step,
    }

  def flush(self) -> None:
    """Waits for the results of the last step, and reads them.

    Raises:
      FloatingPointError: If the loss or the gradient is not finite.
    """
    previous, self._pending = self._pending, None
    if previous:
      self._read(*previous)

  def report_evaluation(self, step: int, sums: Sums) -> dict[str, float]:
    """Writes a record of an evaluation, and logs a line.

    Args:
      step: Updates done.
      sums: Totals over the split.

    Returns:
      The values of the record.

    Raises:
      FloatingPointError: If the loss is not finite.
      ValueError: If the batches have no target.
    """
    if not sums.weight:
      raise ValueError(
        "config.train.eval_batches: these batches of the validation split have "
        "no target, as all their documents are of one token: evaluate more"
      )
    values = metrics.means("eval", sums)
    check_finite("validation loss", step, values["eval/loss"])
    self._writer.write(step, values | self._status(step))
    _LOG.info(
      "step %d/%d  validation loss %.4f  bpc %.4f  accuracy %.2f %%",
      step,
      self._num_steps,
      values["eval/loss"],
      values["eval/bpc"],
      100 * values["eval/accuracy"],
    )
    return values

  @contextlib.contextmanager
  def paused(self, kind: str) -> Iterator[None]:
    """Excludes the time of this context from the reported speed.

    Args:
      kind: What is done meanwhile. The time left counts those of `pauses`.

    Yields:
      Nothing.
    """
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    self._started += seconds
    self._pause_seconds.setdefault(kind, []).append(seconds)

  def _status(self, step):
    """What every record has."""
    # A skipped update leaves the schedule where it was. On the host, as a
    # device would compute it after the step that it is at.
    with jax.default_device(_host()):
      rate = float(self._learning_rate(max(0, step - 1 - self._skips.count)))
    status = {
      "train/learning_rate": rate,
      "train/tokens": self._tokens,
      "train/skipped": self._skips.count,
      "time/seconds": self._elapsed(),
    }
    if self._norm is not None:
      status["train/gradient_norm"] = self._norm
    return status

  def _elapsed(self):
    """Seconds of training, in this process and those before it."""
    return self._seconds + time.monotonic() - self._began

  def _read(self, step, sums, norm, activation_bytes):
    """Adds the results of a step, and reports every `log_every` steps."""
    sums, norm = jax.device_get((sums, norm))
    self._tokens += self._tokens_per_step
    # JSON has no NaN; the update may have been skipped.
    self._norm = float(norm) if math.isfinite(norm) else None
    if not self._skips.note(step, sums, float(norm)):
      self._report_sums = Sums(
        *(a + float(b) for a, b in zip(self._report_sums, sums, strict=True))
      )
    on_time = step % self._log_every == 0
    if on_time or step == self._num_steps:
      self._report(step, activation_bytes)
    if on_time:
      self._report_sums = Sums(0.0, 0.0, 0.0)

  def _report(self, step, activation_bytes):
    """Writes a record and logs a line, unless all updates were skipped."""
    if not self._report_sums.weight:
      return
    now = time.perf_counter()
    seconds = (now - self._started) / (step - self._timed_from)
    self._started, self._timed_from = now, step
    values = metrics.means("train", self._report_sums) | {
      **self._status(step),
      "time/tokens_per_second": self._tokens_per_step / seconds,
      "time/model_flops_per_second": self._flops_per_step / seconds,
      "memory/activation_bytes": activation_bytes,
    }
    self._writer.write(step, values)
    left = datetime.timedelta(seconds=round(self._seconds_left(step, seconds)))
    _LOG.info(
      "step %d/%d  loss %.4f  bpc %.4f  %s tokens/s  activations %.1f MiB  "
      "left %s",
      step,
      self._num_steps,
      values["train/loss"],
      values["train/bpc"],
      f"{values['time/tokens_per_second']:,.0f}",
      activation_bytes / 2**20,
      left,
    )

  def _seconds_left(self, step, seconds):
    """Predicts how long the rest takes, from how long its parts took so far."""
    left = seconds * (self._num_steps - step)
    for kind, found in self._pause_seconds.items():
      every = self._pauses.get(kind)
      if every:
        # The last step has all pauses, too.
        count = -(-self._num_steps // every) - step // every
        left += count * sum(found) / len(found)
    return left


def _host():
  """Returns the CPU as a device; None if JAX_PLATFORMS=cuda excludes it."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return None
