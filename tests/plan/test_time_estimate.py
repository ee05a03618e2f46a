"""Predicted times of gradients."""

import pytest

from slim.plan.gradient_choice import GradientChoice
from slim.plan.time_estimate import estimate_time
from slim.targets import Target
from slim.targets.matrix_products import MatrixProduct

LENGTH, WEIGHT_BYTES = 4096, 4 * 10**6
H100 = Target("cuda:h100")
TARGETS = [Target("cpu"), H100, Target("tpu:v5e")]
FULL = GradientChoice("full", None, None, False)


def products(length, weight_bytes=WEIGHT_BYTES):
  """Returns the product of the weights and some tokens, in float32."""
  operations = 2 * weight_bytes // 4 * length
  num_bytes = weight_bytes + 8 * 1000 * length
  return [MatrixProduct(1, operations, num_bytes, "float32")]


def without_traffic(length):
  """Returns a product that reads nothing."""
  return [x._replace(num_bytes=0) for x in products(length)]


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


def test_a_short_first_chunk_takes_less():
  """Fails if a chunk counts as whole where C does not divide T."""
  choice = GradientChoice("slim", 1024, "store", False)
  found = estimate(choice, H100, length=1100, products=without_traffic)
  full = estimate(FULL, H100, length=1100, products=without_traffic)
  assert found.relative == pytest.approx(4 / 3)
  assert found.at_least == pytest.approx(full.at_least)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_step_may_have_no_matrix_products(target):
  """Fails if an elementwise recurrence ends in a division by zero."""
  choice = GradientChoice("slim", 64, "store", False)
  found = estimate(choice, target, products=lambda _: [], weight_bytes=0)
  assert found.relative == pytest.approx(4 / 3)
  assert found.at_least is None


def test_seconds_of_an_accelerator():
  """Fails if the bound is not that of the roofline, or of one part only."""
  assert estimate(FULL, Target("cpu")).at_least is None
  expected = 3 * 2 * 10**6 * LENGTH / H100.accelerator.rates["float32"]
  assert estimate(FULL, H100).at_least == pytest.approx(expected)
  two = estimate(FULL, H100, num_parts=2)
  assert two.at_least == pytest.approx(2 * expected)
  assert two.relative == 1
