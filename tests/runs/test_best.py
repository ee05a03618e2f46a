"""The best evaluation, and how many have not been better since."""

import pytest

from slim.runs.best import Best


def test_the_best_is_the_lowest_loss_or_the_highest_accuracy():
  """Fails if the worst checkpoint is kept."""
  values = [(1, 2.0, 0.5), (2, 1.0, 0.5), (3, 3.0, 0.7), (4, 1.0, 0.6)]
  records = [
    {"step": step, "eval/loss": loss, "eval/accuracy": accuracy}
    for step, loss, accuracy in values
  ]
  loss, accuracy = Best("eval/loss", records), Best("eval/accuracy", records)
  assert (loss.step, loss.since) == (2, 2)  # The first of equal ones.
  assert (accuracy.step, accuracy.since) == (3, 1)


def test_only_evaluations_count():
  """Fails if patience ends with the reports of training."""
  best = Best("eval/loss")
  assert best.step is None
  assert best.add(1, {"eval/loss": 2.0})
  assert not best.add(2, {"train/loss": 1.0})
  assert (best.step, best.since, best.last_step) == (1, 0, 1)
  assert not best.add(3, {"eval/loss": 2.0})
  assert (best.step, best.since, best.last_step) == (1, 1, 3)


def test_a_damaged_value_is_named():
  """Fails if a word in the place of a number ends in a traceback."""
  with pytest.raises(ValueError, match="eval/loss of step 3 must be a number"):
    Best("eval/loss", [{"step": 3, "eval/loss": "low"}])
