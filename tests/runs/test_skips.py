"""Skipped updates are counted, and too many stop a run."""

import logging
import math

import numpy as np
import pytest

from slim.runs.skips import Skips
from slim.types import Sums

GOOD = Sums(np.float32(2), np.float32(1), np.float32(4))
BAD = GOOD._replace(nll=np.float32(math.nan))


def test_bad_updates_are_counted_until_there_are_too_many(caplog):
  """Fails if a run skips without a word, or for ever."""
  skips = Skips(10.0, 2, count=0)
  with caplog.at_level(logging.WARNING, "slim"):
    found = [skips.note(1, GOOD, 9.0), skips.note(2, GOOD, 11.0)]
    found.append(skips.note(3, BAD, 1.0))
  assert found == [False, True, True]
  assert skips.count == 2
  assert caplog.messages == [
    "step 2: skipped, number 1 of 2, with the loss 0.5 per token and the "
    "gradient norm 11",
    "step 3: skipped, number 2 of 2, with the loss nan per token and the "
    "gradient norm 1",
  ]
  with pytest.raises(FloatingPointError, match="norm of step 4 is 12, more th"):
    skips.note(4, GOOD, 12.0)
  with pytest.raises(FloatingPointError, match="the loss of step 5 is nan"):
    skips.note(5, BAD, 1.0)


def test_nothing_is_skipped_unless_asked_for():
  """Fails if a run goes on after its loss is no number."""
  skips = Skips(None, 0, count=0)
  assert not skips.note(1, GOOD, 1e9)
  with pytest.raises(FloatingPointError, match="gradient norm of step 2 is in"):
    skips.note(2, GOOD, math.inf)
