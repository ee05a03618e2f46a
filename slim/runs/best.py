"""The best evaluation of a run so far, and how long ago it was."""

from collections.abc import Iterable
from typing import Any

from slim.config.run_settings import METRICS


class Best:
  """Watches one metric.

  Attributes:
    step: The step of the best evaluation; None before the first.
    since: Evaluations after it.
    last_step: The step of the last evaluation; None before the first.
  """

  def __init__(self, metric: str, records: Iterable[dict[str, Any]] = ()):
    """Looks at the evaluations so far.

    Args:
      metric: A key of `METRICS`.
      records: Records of metrics.jsonl, in their order.
    """
    self.step: int | None = None
    self.since = 0
    self.last_step: int | None = None
    self._metric = metric
    self._value = 0.0
    for record in records:
      self.add(record["step"], record)

  def add(self, step: int, record: dict[str, Any]) -> bool:
    """Adds a record; records without the metric are ignored.

    Args:
      step: Its step.
      record: Its values by name.

    Returns:
      Whether it is better than all before.

    Raises:
      ValueError: If the metric is no number.
    """
    if self._metric not in record:
      return False
    value = record[self._metric]
    if not isinstance(value, int | float):
      raise ValueError(
        f"metrics.jsonl: {self._metric} of step {step} must be a number, got "
        f"{value!r}: repair or remove the line"
      )
    if not METRICS[self._metric]:
      value = -value
    self.last_step = step
    better = self.step is None or value > self._value
    if better:
      self.step, self._value, self.since = step, value, 0
    else:
      self.since += 1
    return better
