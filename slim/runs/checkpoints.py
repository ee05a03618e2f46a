"""Checkpoints: what is needed to go on as if nothing had happened.

A checkpoint holds the TrainState and a few facts in JSON: the fingerprint of
the data and the sums of the report that is under way. Batches and dropout are
functions of the step, so nothing else is needed.
"""

import contextlib
import itertools
import logging
import os
import re
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore

from slim.training.steps import TrainState

_LOG = logging.getLogger("slim.runs.checkpoints")


class Checkpointer:
  """Writes the checkpoints of a run, to `workdir/checkpoints/STEP`.

  A checkpoint is written beside its place and renamed when it is whole, so a
  run that is killed while it saves leaves the checkpoints before it.
  """

  def __init__(self, workdir: str, keep: int):
    """Opens the folder, creating it if needed.

    Args:
      workdir: A folder.
      keep: How many checkpoints, the newest ones, are kept.
    """
    self._folder = _folder(workdir)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
      ),
    )

  def save(self, state: TrainState, facts: dict[str, Any]) -> None:
    """Starts to save; the next save, or `close`, waits until it is done.

    Args:
      state: Copied before this returns, so its buffers may be donated.
      facts: Anything that JSON can hold.

    Raises:
      ValueError: If this or the last save cannot be written.
    """
    with self._naming_folder():
      self._manager.save(
        int(state.step),
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(facts)
        ),
      )

  def close(self) -> None:
    """Waits for the last save.

    Raises:
      ValueError: If it cannot be written.
    """
    with self._naming_folder():
      self._manager.close()

  @contextlib.contextmanager
  def _naming_folder(self):
    """Lets errors of Orbax and tensorstore say in one line what is wrong."""
    try:
      yield
    except (OSError, ValueError) as error:
      number = re.search("os_error_code='([0-9]+)'", str(error))
      if number:
        reason = os.strerror(int(number[1]))
      else:
        reason = getattr(error, "strerror", None) or _first_line(error)
      raise ValueError(
        f"cannot save a checkpoint in {self._folder}: {reason}: free space "
        "there, and the same command goes on from the checkpoint before"
      ) from error


def restore_newest(
  workdir: str, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
  """Restores the newest checkpoint that can be read; changes nothing on disk.

  Args:
    workdir: The folder of a run.
    abstract_state: The shapes and dtypes to expect, from `jax.eval_shape`.

  Returns:
    The state and the facts, or None if nothing has been saved yet. Damaged
    checkpoints that are newer have been logged.

  Raises:
    ValueError: If there are checkpoints, and none of them can be read, or the
      newest is that of another model.
  """
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
    abstract_state,
  )
  args = ocp.args.Composite(
    state=ocp.args.StandardRestore(target), facts=ocp.args.JsonRestore()
  )
  # Without cleaning up: another run may be saving to this folder right now.
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(_folder(workdir), options=options) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
      try:
        _read_through(os.path.join(_folder(workdir), str(step), "state"))
        restored = manager.restore(step, args=args)
        return restored.state, restored.facts
      # Orbax raises a bare Exception for a damaged file of an array.
      except Exception as error:
        reason = _first_line(error.__cause__ or error)
        if "tructure" in reason:  # Whole, but of other arrays.
          raise ValueError(
            f"the checkpoint of step {step} in {_folder(workdir)} has other "
            "parameters than this version of slim: continue with the version "
            "in its config.json"
          ) from error
        _LOG.warning(
          "the checkpoint of step %d is damaged, falling back to the one "
          "before it: %s",
          step,
          reason,
        )
  if steps:
    raise ValueError(
      f"no readable checkpoint in {_folder(workdir)}: all of the steps {steps} "
      "are damaged; train into another --workdir"
    )
  return None


def list_steps(workdir: str) -> list[int]:
  """Lists the checkpoints of a run, damaged ones too; changes nothing on disk.

  Args:
    workdir: The folder of a run, which need not exist.

  Returns:
    Their steps, from the first to the newest.
  """
  if not os.path.isdir(_folder(workdir)):
    return []
  names = os.listdir(_folder(workdir))
  return sorted(int(name) for name in names if name.isdecimal())


def set_aside_after(workdir: str, last_step: int) -> None:
  """Moves checkpoints out of the way that a resumed run will save again.

  They are damaged, or one of them would have been restored. They go to
  `workdir/damaged_checkpoints/STEP.0`, or `.1` …: nothing is deleted.

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
      shutil.move(os.path.join(_folder(workdir), str(step)), free)


def _read_through(folder: str) -> None:
  """Raises ValueError if the arrays in a folder cannot be read.

  Orbax reads all of them at once, and when one fails, the others print
  tracebacks from threads, where nobody can catch them. So they are read before,
  one after the other.
  """
  base = {"driver": "file", "path": f"{folder}/"}
  store = {"driver": "ocdbt", "base": base}
  keys = tensorstore.KvStore.open(store).result().list().result()
  paths = [key.decode().removesuffix(".zarray") for key in keys]
  paths = [path for path in paths if path.endswith("/")]
  if not paths:
    raise ValueError(f"there are no arrays in {folder}")
  for path in paths:
    spec = {"driver": "zarr", "kvstore": store | {"path": path}}
    tensorstore.open(spec).result().read().result()


def _first_line(error: BaseException) -> str:
  """Returns the first line of a message, or a part of a long one."""
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _folder(workdir: str) -> str:
  """Returns where the checkpoints are; Orbax takes no relative path."""
  return os.path.join(os.path.abspath(workdir), "checkpoints")
