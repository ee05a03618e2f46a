"""Processes that train together, each with its own devices.

JAX connects them. This module adds that all of them end within seconds if one
fails, and say why. By itself JAX would wait for minutes.
"""

import contextlib
import itertools
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # Its state has no public name.
from jax.experimental import multihost_utils

from slim.scale.watch import Watch

_LOG = logging.getLogger("slim.scale")
_JAX: Any = distributed.global_state
_HEARTBEAT_SECONDS = 30  # Until a process that is frozen or lost is noticed.
_WATCHES: list[Watch] = []  # One, if this process is connected.


def connect(text: str | None) -> None:
  """Connects this process with the others; call it before devices are used.

  Args:
    text: "auto" if JAX can find the processes, as under SLURM, Open MPI or on
      Cloud TPUs; else "HOST:PORT,N,I": where process 0 listens, how many there
      are, and which this is. None: this process is alone.

  Raises:
    ValueError: If the text is wrong, or the processes do not find each other.
  """
  if text is None:
    return
  settings = {} if text == "auto" else _parse(text)
  try:
    jax.distributed.initialize(
      **settings, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS
    )
  # JAX's detection of clusters raises a KeyError for incomplete environments.
  except (RuntimeError, ValueError, KeyError) as error:
    raise ValueError(
      f"--processes={text} cannot connect: {_first_line(error).rstrip('.')}: "
      "pass --processes=HOST:PORT,N,I: where process 0 is, how many there are, "
      "and which this is"
    ) from error
  if not are_many():
    return
  _name_in_log()
  # As in `text`, or as JAX has found it.
  address = str(_JAX.coordinator_address)
  host = address.rpartition(":")[0].strip("[]")
  try:
    numbers = _JAX.process_id, _JAX.num_processes
    _WATCHES.append(Watch(*numbers, host, _broadcast))
  except OSError as error:
    _LOG.warning(
      "no connection with process 0 at %s, %s: if a process ends, this one "
      "notices it %d s later",
      host,
      error,
      _HEARTBEAT_SECONDS,
    )


def are_many() -> bool:
  """Tells whether this process trains together with others."""
  return (_JAX.num_processes or 1) > 1  # This looks for no devices.


def is_first() -> bool:
  """Tells whether this process writes, for all of them."""
  return (_JAX.process_id or 0) == 0


def wait_for_all(what: str) -> None:
  """Waits until all processes are here.

  Args:
    what: A name of this place.
  """
  if are_many():
    multihost_utils.sync_global_devices(what)


def choose_first(number: int) -> int:
  """Lets the first process choose.

  Args:
    number: What this process would choose.

  Returns:
    The number of the first process, on all.
  """
  if not are_many():
    return number
  return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def check_equal(**texts: str) -> None:
  """Raises on all processes if they differ in what must be equal.

  Args:
    **texts: By name, each of one or more lines.

  Raises:
    ValueError: It names the first line that differs.
  """
  if not are_many():
    return
  for name, text in texts.items():
    size = int(
      multihost_utils.process_allgather(np.int32(len(text.encode()))).max()
    )
    padded = np.frombuffer(text.encode().ljust(size), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    different = np.flatnonzero((gathered != gathered[:1]).any(-1))
    if different.size:
      index = different[0]
      one, two = (
        bytes(gathered[i]).decode().strip().splitlines() for i in (0, index)
      )
      pairs = itertools.zip_longest(one, two, fillvalue="")
      found = next(pair for pair in pairs if pair[0] != pair[1])
      raise ValueError(
        f"all processes must have the same {name}, got {found[0]!r} in process "
        f"0 and {found[1]!r} in process {index}"
      )


@contextlib.contextmanager
def folder_to_write(folder: str) -> Iterator[str]:
  """Gives one process the folder to write to, and others a temporary one.

  Args:
    folder: Where the first process writes.

  Yields:
    That folder, or one that is removed at the end.
  """
  # Nobody may write before all processes have read the folder.
  wait_for_all("the first write")
  if is_first():
    yield folder
    return
  with tempfile.TemporaryDirectory() as other:
    yield other


class Ending:
  """Lets all processes end after the same step if one of them wants to."""

  def __init__(self) -> None:
    """Starts to watch."""
    self._told = False
    self._last: tuple[int, bool] | None = None

  def agree(self, wish: bool, step: int) -> bool:
    """Tells whether to end after a step; call it after each.

    Args:
      wish: Whether this process wants to.
      step: Updates done.

    Returns:
      The same answer on all processes.
    """
    if not are_many():
      return wish
    if wish and not self._told:
      # JAX takes this signal for a notice to all, wherever it comes from.
      self._told = True
      os.kill(os.getpid(), signal.SIGTERM)
    if self._last is None or self._last[0] != step:
      reached = multihost_utils.reached_preemption_sync_point(step)
      self._last = step, reached
    return self._last[1]


def end(error: BaseException | None) -> None:
  """Ends the part of this process; if it has failed, all others end, too.

  Args:
    error: What it has failed by; None: it is done, and waits for the others.
  """
  if not are_many():
    return
  code = error.code if isinstance(error, SystemExit) else error
  if code in (None, 0):
    for watch in _WATCHES:
      watch.leave()
    jax.distributed.shutdown()
    return
  message = code if isinstance(code, str) else f"error: {_first_line(error)}"
  if not isinstance(error, SystemExit):
    traceback.print_exception(error)
  where = f"process {_JAX.process_id} of {_JAX.num_processes}"
  print(f"{message} [{where}]", file=sys.stderr, flush=True)
  for watch in _WATCHES:
    watch.fail(message)
  # An orderly exit would let JAX wait for the others, for minutes.
  os._exit(code if isinstance(code, int) else 1)


def _broadcast(numbers):
  """Returns the numbers that process 0 has."""
  found = multihost_utils.broadcast_one_to_all(np.array(numbers, np.int32))
  return tuple(int(x) for x in found)


def _parse(text):
  """Reads HOST:PORT,N,I."""
  match = re.fullmatch(r"([^,]+:\d+),(\d{1,6}),(\d{1,6})", text)
  if match is None or int(match[3]) >= int(match[2]):
    raise ValueError(
      "--processes must be auto, or HOST:PORT,N,I with I from 0 to N - 1, got "
      f"{text!r}"
    )
  return {
    "coordinator_address": match[1],
    "num_processes": int(match[2]),
    "process_id": int(match[3]),
  }


def _name_in_log():
  """Lets process 0 log, and the others only warnings, with their number."""
  index = _JAX.process_id
  form = f"%(asctime)s [{index}/{_JAX.num_processes}] %(message)s"
  for handler in logging.getLogger("slim").handlers:
    if index:
      handler.setLevel(logging.WARNING)
      handler.setFormatter(logging.Formatter(form, "%H:%M:%S"))


def _first_line(error):
  return (str(error).strip() or repr(error)).splitlines()[0][:200]
