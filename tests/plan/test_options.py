"""What may be chosen, and how long it should take."""

import pytest

from slim.plan.options import Option, list_options, relative_time


def test_all_options_are_listed():
  """A chunk of the whole sequence would be called slim, or a size be missed."""
  found = list_options(
    64, policies=["rewind", "store"], remat=True, reversible=False
  )
  assert [x[:3] for x in found] == [
    ("full", None, None),
    ("remat", None, None),
    ("slim", 16, "rewind"),
    ("slim", 32, "rewind"),
    ("slim", 16, "store"),
    ("slim", 32, "store"),
  ]
  [only] = list_options(64, policies=[], remat=False, reversible=True)
  assert only == Option("full", None, None, True)


@pytest.mark.parametrize(
  ("option", "time"),
  [
    (Option("full", None, None, False), 1),
    (Option("remat", None, None, False), 4 / 3),
    (Option("slim", 8, "store", False), 4 / 3),
    (Option("slim", 8, "sqrt", False), 5 / 3),
    (Option("slim", 8, "rewind", True), 5 / 3),
    (Option("full", None, None, True), 4 / 3),
  ],
)
def test_work_is_counted_in_forward_passes(option, time):
  """A method would seem as fast as another that computes less."""
  found = relative_time(option, num_chunks=1, weight_bytes=0, flops=1)
  assert found == pytest.approx(time)


def test_small_chunks_take_longer():
  """The smallest chunk, which needs least memory, would always be chosen."""
  times = [
    relative_time(
      Option("slim", size, "rewind", False),
      num_chunks=4096 // size,
      weight_bytes=10**6,
      flops=10**10,
    )
    for size in (16, 64, 256)
  ]
  assert times == sorted(times, reverse=True)
  assert times[0] > 1.05 * times[2]
