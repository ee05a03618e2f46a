"""Signals and time limits: a run ends after a step, with a checkpoint."""

import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType

from slim.scale import processes

_LOG = logging.getLogger("slim.train")

# What a cluster, a terminal that is closed, and Ctrl-C send.
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
SAVING = signal.SIGUSR1  # A checkpoint is wanted now, as before a time limit.


class Interruptions:
  """Notes signals while a context is open; the training loop asks for them.

  A thread notes them, as Python's own handlers wait until a program on the
  device has ended. Signals that the process ignores, as under nohup, stay
  ignored. Outside of the main thread signals are left alone.

  Attributes:
    reason: Why to end; None: there is no reason.
  """

  def __init__(self, max_minutes: float | None = None):
    """Starts the clock.

    Args:
      max_minutes: When to end, counted from here; None: never.
    """
    self.reason: str | None = None
    self._save_wanted = False
    self._num_ctrl_c = 0  # As the thread counts them.
    self._num_handled = 0  # As the main thread does, which may be late.
    self._started = self._last = time.monotonic()
    self._longest = 0.0  # Seconds between two calls of `should_end`.
    self._max_minutes = max_minutes
    self._before: dict[int, object] = {}

  def start_steps(self) -> None:
    """Begins to measure how long steps take, from here."""
    self._last = time.monotonic()

  def should_end(self, save_seconds: float = 0.0) -> bool:
    """Tells whether to save and to end; to be asked once a step.

    Args:
      save_seconds: How long a save takes.

    Returns:
      Whether a signal has come, or another step would not fit into the time.
      The step that was dispatched last may still be running, so there must be
      time for two, and for a save. Several processes need two more to agree.
    """
    now = time.monotonic()
    self._longest = max(self._longest, now - self._last)
    self._last = now
    if self._max_minutes is not None and self.reason is None:
      left = 60 * self._max_minutes - (now - self._started)
      num_steps = 4 if processes.are_many() else 2
      if left < num_steps * self._longest + save_seconds:
        self.reason = f"config.train.max_minutes={self._max_minutes:g}"
    return self.reason is not None

  def take_save_wanted(self) -> bool:
    """Tells whether SIGUSR1 has asked for a checkpoint since the last call."""
    if not self._save_wanted:
      return False
    self._save_wanted = False
    return True

  def __enter__(self) -> "Interruptions":
    """Starts to note signals."""
    if threading.current_thread() is not threading.main_thread():
      return self
    self._reading, self._writing = os.pipe()
    os.set_blocking(self._writing, False)
    self._wakeup = signal.set_wakeup_fd(
      self._writing, warn_on_full_buffer=False
    )
    for number in (*ENDING, SAVING):
      if processes.are_many() and number == signal.SIGTERM:
        continue  # JAX tells all processes of it, see `Ending`.
      if processes.are_many() and number == SAVING:
        # One process cannot save alone.
        self._before[number] = signal.signal(number, signal.SIG_IGN)
        continue
      if signal.getsignal(number) is not signal.SIG_IGN:
        self._before[number] = signal.signal(number, self._handle)
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    """Handles signals as before."""
    if not self._before:
      return
    signal.set_wakeup_fd(self._wakeup)
    for number, handler in self._before.items():
      signal.signal(number, handler)  # type: ignore[arg-type]
    os.close(self._writing)  # Ends the thread.
    self._thread.join()
    os.close(self._reading)

  def _watch(self) -> None:
    """Reads the numbers of all signals that have a handler in Python."""
    while number := os.read(self._reading, 1):
      if number[0] in self._before:
        self._note(signal.Signals(number[0]))

  def _note(self, number: signal.Signals) -> None:
    if number == SAVING:
      self._save_wanted = True
      _LOG.info("%s: saving after this step", number.name)
      return
    self._num_ctrl_c += number == signal.SIGINT
    if self._num_ctrl_c > 1 and self._before[number] is signal.SIG_DFL:
      os._exit(128 + number)  # The main thread may be busy for minutes.
    if self.reason is None:
      self.reason = number.name
    _LOG.info(
      "%s: saving and ending after this step%s",
      number.name,
      "; Ctrl-C again: ending at once, without saving"
      if number == signal.SIGINT
      else "",
    )

  def _handle(self, number: int, frame: FrameType | None) -> None:
    """Raises at a second Ctrl-C, where the process is not ours to end."""
    if number == signal.SIGINT and self._before[number] is not signal.SIG_DFL:
      self._num_handled += 1
      if self._num_handled > 1:
        raise KeyboardInterrupt
