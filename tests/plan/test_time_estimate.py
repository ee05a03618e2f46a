"""Predicted times of gradients."""

import pytest

from slim.plan.gradient_choice import GradientChoice
from slim.plan.time_estimate import estimate_time
from slim.targets import Target
from slim.targets.matrix_products import MatrixProduct

LENGTH, WEIGHT_BYTES = 4096, 4 * 10**6
TARGETS = [Target("cpu"), Target("cuda:h100"), Target("tpu:v5e")]


def products(length, weight_bytes=WEIGHT_BYTES):
  """Returns the product of the weights and some tokens, in float32."""
  operations = 2 * weight_bytes // 4 * length
  num_bytes = weight_bytes + 8 * 1000 * length
  return [MatrixProduct(1, operations, num_bytes, "float32")]


def estimate(choice, target, **settings):
  """Estimates the time of a model of one matrix."""
  return estimate_time(
    choice,
    **dict(length=LENGTH, products=products, weight_bytes=WEIGHT_BYTES)
    | settings,
    target=target,
  )


@pytest.mark.parametrize(
  ("choice", "time"),
  [
    (GradientChoice("full", None, None, False), 1),
    (GradientChoice("remat", None, None, False), 4 / 3),
    (GradientChoice("slim", LENGTH, "store", False), 4 / 3),
    (GradientChoice("slim", LENGTH, "sqrt", False), 5 / 3),
    (GradientChoice("slim", LENGTH, "rewind", True), 5 / 3),
    (GradientChoice("full", None, None, True), 4 / 3),
  ],
)
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_time_counts_forward_passes(choice, time, target):
  """Fails if a method seems as fast as one that computes less."""
  found = estimate(choice, target)
  assert found.relative == pytest.approx(time, rel=0.02)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_small_chunks_take_longer(target):
  """Fails if small chunks, which need least memory, cost no time."""
  times = [
    estimate(GradientChoice("slim", size, "rewind", False), target).relative
    for size in (16, 64, 256)
  ]
  assert times == sorted(times, reverse=True)
  assert times[0] > 1.05 * times[2]


def test_seconds_of_an_accelerator():
  """Fails if the bound is not that of the roofline, or of one part only."""
  full = GradientChoice("full", None, None, False)
  assert estimate(full, Target("cpu")).at_least is None
  h100 = Target("cuda:h100")
  expected = 3 * 2 * 10**6 * LENGTH / h100.accelerator.rates["float32"]
  assert estimate(full, h100).at_least == pytest.approx(expected)
  two = estimate(full, h100, num_parts=2)
  assert two.at_least == pytest.approx(2 * expected)
  assert two.relative == 1
