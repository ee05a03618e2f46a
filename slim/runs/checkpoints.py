"""Checkpoints: everything that a resumed run needs to reach the same numbers.

A checkpoint is a folder that can be copied elsewhere and opened alone:

  arrays/    The TrainState, written by Orbax.
  run.json   The settings, what made it, and what else a resumed run needs.
  CHECKSUMS  Of all other files.

It is written under another name and renamed when all of it is on the disk. So a
folder with a number for its name is whole, or it has been damaged later.
Batches and dropout masks are functions of the step and need not be stored.
"""

import concurrent.futures
import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from slim.files import first_line, list_tree, sync, write_file
from slim.runs.checksums import write_checksums
from slim.scale import processes
from slim.types import TrainState

ARRAYS = "arrays"
RECORD = "run.json"
_UNDER_WAY = ".saving."  # Begins the name of a checkpoint that is not whole.


class Checkpointer:
  """Writes the checkpoints of a run, to `workdir/checkpoints/STEP`.

  A thread writes them while training goes on. A run that is killed while it
  saves keeps its earlier checkpoints.

  Attributes:
    longest_seconds: How long the longest save so far has taken.
  """

  def __init__(self, workdir: str, keep: int):
    """Opens the folder of checkpoints, creating it if needed.

    Args:
      workdir: The folder of the run, in which no other process trains.
      keep: How many of the newest checkpoints to keep.
    """
    self._workdir = workdir
    self._folder = checkpoints_folder(workdir)
    self._keep = keep
    self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
    self._saving: concurrent.futures.Future[None] | None = None
    self.longest_seconds = 0.0
    if processes.is_first():
      with self._name_folder():
        os.makedirs(self._folder, exist_ok=True)
        for name in os.listdir(self._folder):
          if name.startswith(_UNDER_WAY):
            # A file that somebody still reads stays on some file systems.
            shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)
    processes.wait_for_all("the folder of checkpoints")

  def check(self) -> None:
    """Raises if the last save has failed by now.

    Raises:
      ValueError: If it cannot be written.
    """
    if self._saving and self._saving.done():
      self._wait()

  def save(
    self,
    state: TrainState,
    record: dict[str, Any],
    keep_steps: Sequence[int | None] = (),
  ) -> None:
    """Starts to save; the next `save`, or `close`, waits until it is done.

    Args:
      state: It is copied before this returns, so its buffers may be donated.
      record: Anything that JSON can hold.
      keep_steps: Steps whose checkpoints are kept besides the newest.

    Raises:
      ValueError: If this or the last save cannot be written.
    """
    self._wait()
    step = int(state.step)
    # All processes must name it alike; one may share its folder by mistake.
    name = str(step) if processes.are_many() else secrets.token_hex(8)
    folder = os.path.join(self._folder, _UNDER_WAY + name)
    with self._name_folder():
      if processes.is_first():
        os.mkdir(folder)
      processes.wait_for_all(f"the folder of step {step}")
      finish_arrays = _start_arrays(os.path.join(folder, ARRAYS), state)
    self._saving = self._thread.submit(
      self._write, folder, finish_arrays, step, record, set(keep_steps)
    )

  def close(self) -> None:
    """Waits for the last save.

    Raises:
      ValueError: If it cannot be written.
    """
    try:
      self._wait()
    finally:
      self._thread.shutdown()

  def __enter__(self) -> "Checkpointer":
    """Returns itself."""
    return self

  def __exit__(self, kind: object, error: object, traceback: object) -> None:
    """Closes it, unless the save waits for a process that may be gone."""
    if error is None or not processes.are_many():
      self.close()

  def _wait(self):
    saving, self._saving = self._saving, None
    if saving:
      with self._name_folder():
        saving.result()

  def _write(self, folder, finish_arrays, step, record, keep_steps):
    """Writes a checkpoint, and then deletes those that are too many."""
    started = time.monotonic()
    try:
      finish_arrays()
      if not processes.is_first():
        return
      text = json.dumps(record, indent=2, allow_nan=False)
      write_file(os.path.join(folder, RECORD), text.encode())
      write_checksums(folder)
      sync(sum(list_tree(folder), []))
      os.rename(folder, os.path.join(self._folder, str(step)))
      sync([self._folder])
    except BaseException:
      shutil.rmtree(folder, ignore_errors=True)
      raise
    seconds = time.monotonic() - started
    self.longest_seconds = max(self.longest_seconds, seconds)
    for step in set(list_steps(self._workdir)[: -self._keep]) - keep_steps:
      # A reader never sees a checkpoint without its first files.
      gone = os.path.join(self._folder, _UNDER_WAY + secrets.token_hex(8))
      os.rename(os.path.join(self._folder, str(step)), gone)
      shutil.rmtree(gone, ignore_errors=True)

  @contextlib.contextmanager
  def _name_folder(self) -> Iterator[None]:
    """Turns errors of files, Orbax and tensorstore into one line."""
    try:
      yield
    except (OSError, ValueError) as error:
      number = re.search("os_error_code='([0-9]+)'", str(error))
      if number:
        reason = os.strerror(int(number[1]))
      else:
        reason = getattr(error, "strerror", None) or first_line(error, 200)
      raise ValueError(
        f"cannot save a checkpoint in {self._folder}: {reason}: free space "
        "there, and the same command continues from the checkpoint before"
      ) from error


def _start_arrays(path: str, state: TrainState) -> Callable[[], None]:
  """Starts to write arrays.

  Args:
    path: Their folder, which does not exist.
    state: Its buffers may be donated when this returns.

  Returns:
    A function that waits until all are written, by all processes.
  """
  if processes.are_many():
    # Each writes what its own devices have.
    together = ocp.StandardCheckpointer()
    together.save(path, state)
    return together.close
  # On CPUs this is a view, and JAX donates no buffer that has one.
  state = jax.device_get(state)

  def write() -> None:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, state)

  return write


def is_checkpoint(folder: str) -> bool:
  """Tells whether a folder is one checkpoint, and not a run."""
  return os.path.exists(os.path.join(folder, RECORD))


def list_steps(workdir: str) -> list[int]:
  """Lists the checkpoints of a run, damaged ones too; changes nothing on disk.

  Args:
    workdir: The folder of a run, which need not exist.

  Returns:
    Their steps in ascending order.
  """
  folder = checkpoints_folder(workdir)
  if not os.path.isdir(folder):
    return []
  return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())


def set_aside_after(workdir: str, last_step: int) -> None:
  """Moves damaged checkpoints away that a resumed run will save again.

  Checkpoints after the restored one are damaged, or they would have been
  restored. They are moved to `workdir/damaged_checkpoints/STEP.0`, or `.1` …,
  and never deleted.

  Args:
    workdir: The folder of a run.
    last_step: The step that was restored.
  """
  damaged = os.path.join(os.path.abspath(workdir), "damaged_checkpoints")
  for step in list_steps(workdir):
    if step > last_step:
      os.makedirs(damaged, exist_ok=True)
      # The same step may be damaged again in a later run.
      free = next(
        path
        for i in itertools.count()
        if not os.path.exists(path := os.path.join(damaged, f"{step}.{i}"))
      )
      shutil.move(os.path.join(checkpoints_folder(workdir), str(step)), free)


def checkpoints_folder(workdir: str) -> str:
  """Returns the folder of checkpoints as an absolute path, as Orbax needs."""
  return os.path.join(os.path.abspath(workdir), "checkpoints")
