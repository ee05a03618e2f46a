"""What takes long says so."""

import logging
import re
import time

import pytest

from slim.runs import stages


def test_what_takes_long_says_so(monkeypatch, caplog):
  """Fails if a user cannot tell a compilation from a hang."""
  monkeypatch.setattr(stages, "_FIRST_SECONDS", 0.01)
  with caplog.at_level(logging.INFO, "slim"):
    with pytest.raises(KeyError), stages.stage("compiling"):
      while not caplog.messages:
        time.sleep(0.001)
      raise KeyError
  first, *_, last = caplog.messages
  assert re.fullmatch(r"compiling: \d+ s so far", first)
  assert re.fullmatch(r"compiling: \d+ s in all", last)


def test_what_is_quick_says_nothing(caplog):
  """Fails if the log is full of it."""
  with caplog.at_level(logging.INFO, "slim"), stages.stage("compiling"):
    pass
  assert not caplog.messages
