"""Skip updates whose loss or gradient is not finite or too large."""

import logging
import math

from slim.training.steps import is_usable
from slim.types import Sums

_LOG = logging.getLogger("slim.train")


class Skips:
  """Counts the updates that were skipped, and stops a run with too many.

  Attributes:
    count: How many there were in the whole run.
  """

  def __init__(self, skip_above: float | None, max_skipped: int, count: int):
    """Continues to count.

    Args:
      skip_above: As for `make_update_step`.
      max_skipped: Updates that may be skipped in the whole run.
      count: Updates that have been skipped so far.
    """
    self.count = count
    self._skip_above = skip_above
    self._max_skipped = max_skipped

  def note(self, step: int, sums: Sums, norm: float) -> bool:
    """Tells whether an update was skipped.

    Args:
      step: Updates done, including this one.
      sums: Totals over its batch.
      norm: The norm of its mean gradient.

    Returns:
      Whether `make_update_step` has skipped it.

    Raises:
      FloatingPointError: If the update is not usable, and no more may be
        skipped.
    """
    limit = self._skip_above
    skips = limit is not None
    if limit is not None and is_usable(sums.nll, norm, limit):
      return False
    if skips and self.count < self._max_skipped:
      self.count += 1
      _LOG.warning(
        "step %d: skipped, number %d of %d, with the loss %.4g per token and "
        "the gradient norm %.4g",
        step,
        self.count,
        self._max_skipped,
        sums.nll / sums.weight,
        norm,
      )
      return True
    check_finite("loss", step, float(sums.nll))
    check_finite("gradient norm", step, norm)
    if skips:
      raise FloatingPointError(
        f"the gradient norm of step {step} is {norm:.4g}, more than "
        f"config.train.skip_norm={limit:g}, and "
        f"config.train.max_skipped={self._max_skipped} updates have been "
        "skipped: lower config.optimizer.learning_rate"
      )
    return False


def check_finite(name: str, step: int, value: float) -> None:
  """Raises if a number is not finite.

  Args:
    name: What it is.
    step: Updates done.
    value: The number.

  Raises:
    FloatingPointError: It names the settings to change.
  """
  if not math.isfinite(value):
    raise FloatingPointError(
      f"the {name} of step {step} is {value}: lower "
      "config.optimizer.learning_rate or set config.optimizer.clip_norm, and "
      "train into another --workdir; the last checkpoint of this one is from "
      "before"
    )
