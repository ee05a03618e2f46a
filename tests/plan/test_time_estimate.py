"""Predicted times of gradients."""

import pytest

from slim.plan.gradient_choice import GradientChoice
from slim.plan.time_estimate import estimate_time


@pytest.mark.parametrize(
  ("choice", "time"),
  [
    (GradientChoice("full", None, None, False), 1),
    (GradientChoice("remat", None, None, False), 4 / 3),
    (GradientChoice("slim", 8, "store", False), 4 / 3),
    (GradientChoice("slim", 8, "sqrt", False), 5 / 3),
    (GradientChoice("slim", 8, "rewind", True), 5 / 3),
    (GradientChoice("full", None, None, True), 4 / 3),
  ],
)
def test_time_counts_forward_passes(choice, time):
  """Fails if a method seems as fast as one that computes less."""
  found = estimate_time(choice, num_chunks=1, weight_bytes=0, flops=1)
  assert found == pytest.approx(time)


def test_small_chunks_take_longer():
  """Fails if small chunks, which need least memory, cost no time."""
  times = [
    estimate_time(
      GradientChoice("slim", size, "rewind", False),
      num_chunks=4096 // size,
      weight_bytes=10**6,
      flops=10**10,
    )
    for size in (16, 64, 256)
  ]
  assert times == sorted(times, reverse=True)
  assert times[0] > 1.05 * times[2]
