"""Signals and time limits are noted, and nothing else changes."""

import logging
import os
import signal
import threading
import time

import pytest

from slim.runs import interruptions
from slim.runs.interruptions import Interruptions

pytestmark = pytest.mark.usefixtures("as_in_a_terminal")


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
  before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # As commands do.
  try:
    with Interruptions() as noted:
      send(signal.SIGTERM, noted.should_end)
      send(signal.SIGINT, lambda: noted._num_ctrl_c == 1)
      assert not codes
      send(signal.SIGINT, lambda: codes)
  finally:
    signal.signal(signal.SIGINT, before)
  assert codes == [130]


def test_a_second_ctrl_c_interrupts_a_notebook():
  """Fails if it ends a process that is not ours, or is ignored there."""
  with pytest.raises(KeyboardInterrupt), Interruptions() as noted:
    send(signal.SIGINT, noted.should_end)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


def test_ignored_and_other_signals_mean_nothing():
  """Fails if nohup does not protect a run, or a resized window ends it."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  came = []
  other = signal.signal(signal.SIGWINCH, lambda *_: came.append(1))
  try:
    with Interruptions() as noted:
      os.kill(os.getpid(), signal.SIGHUP)
      send(signal.SIGWINCH, lambda: came)
      time.sleep(0.05)
      assert not noted.should_end()
      send(signal.SIGTERM, noted.should_end)  # It still listens.
    assert noted.reason == "SIGTERM"
  finally:
    signal.signal(signal.SIGHUP, before)
    signal.signal(signal.SIGWINCH, other)


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
  noted.start_steps()
  ended = []
  for seconds in (10, 10, 10):
    now += seconds
    ended.append(noted.should_end(save_seconds=11))
  assert ended == [False, False, True]  # Two steps and a save take 31 of 30.
  assert noted.reason == "config.train.max_minutes=2"
