"""Log the progress of slow stages."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

_LOG = logging.getLogger("slim.stages")
_FIRST_SECONDS = 5.0  # Until the first line; then twice as long, and so on.


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
  """Logs now and then that something is under way, and at its end how long.

  Nothing is logged if it takes less than five seconds.

  Args:
    what: What is done, as in "compiling".

  Yields:
    Nothing.
  """
  started = time.monotonic()
  done = threading.Event()

  def seconds():
    return round(time.monotonic() - started)

  def tell():
    wait = _FIRST_SECONDS
    while not done.wait(wait):
      _LOG.info("%s: %d s so far", what, seconds())
      wait = time.monotonic() - started

  thread = threading.Thread(target=tell, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    if time.monotonic() - started >= _FIRST_SECONDS:
      _LOG.info("%s: %d s in all", what, seconds())
