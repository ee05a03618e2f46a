"""Signals and time limits are noted, and nothing else changes."""

import logging
import os
import signal
import threading
import time

import pytest

from slim.runs import interruptions
from slim.runs.interruptions import Interruptions


def send(number, until):
  """Sends a signal to this process, and waits for what it does."""
  os.kill(os.getpid(), number)
  deadline = time.monotonic() + 10
  while not until():
    assert time.monotonic() < deadline, "the signal was not noted"
    time.sleep(0.001)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_ends_after_the_step(name, caplog):
  """Fails if a cluster's signal, or Ctrl-C, costs the steps since a save."""
  with caplog.at_level(logging.INFO, "slim"), Interruptions() as noted:
    assert not noted.should_end()
    send(getattr(signal, name), noted.should_end)
    assert noted.reason == name
  [message] = caplog.messages
  assert message.startswith(f"{name}: saving and ending after this step")


def test_a_second_ctrl_c_ends_at_once(monkeypatch):
  """Fails if a user has to wait for a step of minutes."""
  codes = []
  monkeypatch.setattr(interruptions.os, "_exit", codes.append)
  with Interruptions() as noted:
    send(signal.SIGTERM, noted.should_end)
    send(signal.SIGINT, lambda: codes)
  assert codes == [130]


def test_a_signal_can_ask_for_a_checkpoint():
  """Fails if SIGUSR1 ends the run, or saves at every later step."""
  with Interruptions() as noted:
    send(signal.SIGUSR1, noted.take_save_wanted)
    assert not noted.take_save_wanted()
    assert not noted.should_end()


def test_signals_mean_what_they_did_before():
  """Fails if a process that trains as a function loses its handlers."""
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
  before = [signal.getsignal(number) for number in numbers]
  count = threading.active_count()
  with Interruptions():
    assert [signal.getsignal(number) for number in numbers] != before
  assert [signal.getsignal(number) for number in numbers] == before
  assert threading.active_count() == count


def test_other_threads_train_without_signals():
  """Fails if training in a thread raises, as only the main one has signals."""
  found = []

  def train():
    with Interruptions() as noted:
      found.append(noted.should_end())

  thread = threading.Thread(target=train)
  thread.start()
  thread.join()
  assert found == [False]


def test_the_time_ends_before_the_longest_step_does_not_fit(monkeypatch):
  """Fails if a time limit is passed, or a minute of it is left."""
  now = 0.0
  monkeypatch.setattr(time, "monotonic", lambda: now)
  noted = Interruptions(max_minutes=2.0)
  now += 60  # Compiling counts, but is no step.
  ended = []
  with noted:
    for seconds in (20, 10, 10, 5):
      now += seconds
      ended.append(noted.should_end())
  assert ended == [False, False, False, True]  # 20 s would not fit into 15.
  assert noted.reason == "config.train.max_minutes=2"
