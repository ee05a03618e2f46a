"""Signals and time limits: a run ends after a step, with a checkpoint."""

import logging
import os
import signal
import threading
import time
from types import TracebackType

_LOG = logging.getLogger("slim.train")

# What a cluster, a terminal that is closed, and Ctrl-C send.
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_SAVING = signal.SIGUSR1  # A checkpoint is wanted now, as before a time limit.


class Interruptions:
  """Notes signals while a context is open; the loop asks for them.

  A thread notes them, as Python's own handlers wait until a program on the
  device has ended. Outside of the main thread signals are left alone.
  """

  def __init__(self, max_minutes: float | None = None):
    """Starts the clock.

    Args:
      max_minutes: When to end, counted from here; None: never.
    """
    self.reason: str | None = None  # Why to end.
    self._save_wanted = False
    self._started = time.monotonic()
    self._last = self._started
    self._longest = 0.0  # Seconds between two calls of `should_end`.
    self._max_minutes = max_minutes
    self._before: dict[int, object] = {}

  def should_end(self) -> bool:
    """Tells whether to save and to end; to be asked once a step.

    Returns:
      Whether a signal has come, or the longest step so far would no longer fit
      into the time.
    """
    now = time.monotonic()
    self._longest = max(self._longest, now - self._last)
    self._last = now
    if self._max_minutes is not None and self.reason is None:
      left = 60 * self._max_minutes - (now - self._started)
      if left < self._longest:
        self.reason = f"config.train.max_minutes={self._max_minutes:g}"
    return self.reason is not None

  def take_save_wanted(self) -> bool:
    """Tells whether SIGUSR1 has asked for a checkpoint since the last call."""
    wanted, self._save_wanted = self._save_wanted, False
    return wanted

  def __enter__(self) -> "Interruptions":
    """Starts to note signals, and to measure steps."""
    self._last = time.monotonic()
    if threading.current_thread() is not threading.main_thread():
      return self
    self._reading, self._writing = os.pipe()
    os.set_blocking(self._writing, False)
    self._wakeup = signal.set_wakeup_fd(
      self._writing, warn_on_full_buffer=False
    )
    for number in (*_ENDING, _SAVING):
      self._before[number] = signal.signal(number, lambda *_: None)
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

  def _watch(self):
    while number := os.read(self._reading, 1):
      self._note(signal.Signals(number[0]))

  def _note(self, number):
    if number == _SAVING:
      self._save_wanted = True
      _LOG.info("%s: saving after this step", number.name)
    elif self.reason is None:
      self.reason = number.name
      _LOG.info(
        "%s: saving and ending after this step%s",
        number.name,
        "; again: at once, without" if number == signal.SIGINT else "",
      )
    elif number == signal.SIGINT:
      os._exit(128 + number)  # The main thread may be busy for minutes.
