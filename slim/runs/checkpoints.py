"""Checkpoints: everything that a resumed run needs to reach the same numbers.

A checkpoint holds the TrainState and, as JSON, some metadata: the fingerprint
of the data, and the sums of the report under way. Batches and dropout masks are
functions of the step, so they need not be stored.
"""

import contextlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from slim.models import stacking
from slim.runs._stored_arrays import (
  count_stored_stacks,
  name_shapes,
  read_shapes,
)
from slim.types import TrainState

_LOG = logging.getLogger("slim.runs.checkpoints")

_STATE = "state"
_METADATA = "facts"  # The name on disk, which older runs have too.


class Checkpointer:
  """Writes the checkpoints of a run, to `workdir/checkpoints/STEP`.

  Orbax writes a checkpoint under a temporary name and renames it when it is
  complete. A run that is killed while it saves keeps its earlier checkpoints.
  """

  def __init__(self, workdir: str, keep: int):
    """Opens the folder of checkpoints, creating it if needed.

    Args:
      workdir: The folder of the run.
      keep: How many of the newest checkpoints to keep.
    """
    self._folder = _folder(workdir)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True
      ),
    )

  def save(self, state: TrainState, metadata: dict[str, Any]) -> None:
    """Starts to save; the next `save`, or `close`, waits until it is done.

    Args:
      state: It is copied before this returns, so its buffers may be donated.
      metadata: Anything that JSON can hold.

    Raises:
      ValueError: If this or the last save cannot be written.
    """
    with self._name_folder():
      self._manager.save(
        int(state.step),
        args=ocp.args.Composite(
          **{
            _STATE: ocp.args.StandardSave(state),
            _METADATA: ocp.args.JsonSave(metadata),
          }
        ),
      )

  def close(self) -> None:
    """Waits for the last save.

    Raises:
      ValueError: If it cannot be written.
    """
    with self._name_folder():
      self._manager.close()

  @contextlib.contextmanager
  def _name_folder(self) -> Iterator[None]:
    """Turns errors of Orbax and tensorstore into one line with the folder."""
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
        "there, and the same command continues from the checkpoint before"
      ) from error


def restore_run(
  workdir: str, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]]:
  """Restores the newest readable checkpoint of a run that has one.

  Args:
    workdir: The folder of the run.
    abstract_state: The shapes and dtypes to expect, from `jax.eval_shape`.

  Returns:
    The state and the metadata.

  Raises:
    ValueError: If there is no checkpoint, or none can be read.
  """
  restored = restore_newest(workdir, abstract_state)
  if restored is None:
    raise ValueError(
      f"--workdir {workdir} has no checkpoint yet: train first, or longer"
    )
  return restored


def restore_newest(
  workdir: str, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
  """Restores the newest readable checkpoint; changes nothing on disk.

  Args:
    workdir: The folder of a run.
    abstract_state: The shapes and dtypes to expect, from `jax.eval_shape`.

  Returns:
    The state and the metadata, or None if nothing has been saved yet. Newer
    checkpoints that are damaged are logged.

  Raises:
    ValueError: If there are checkpoints but none is readable, or the newest
      readable one has other parameters.
  """
  # No cleanup: another process may be saving to this folder right now.
  options = ocp.CheckpointManagerOptions(create=False)
  with ocp.CheckpointManager(_folder(workdir), options=options) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
      folder = os.path.join(_folder(workdir), str(step), _STATE)
      try:
        shapes = read_shapes(folder)
        # Equal layers may have been stacked or not when it was saved.
        stored = jax.eval_shape(
          lambda state, shapes=shapes: stacking.to_form(
            state, count_stored_stacks(shapes)
          ),
          abstract_state,
        )
        if shapes == name_shapes(stored):
          restored = manager.restore(step, args=_restore_args(stored))
          state = stacking.match_form(restored[_STATE], abstract_state.params)
          return state, restored[_METADATA]
      # Orbax raises a bare Exception for a damaged array file.
      except Exception as error:
        _LOG.warning(
          "the checkpoint of step %d is damaged, falling back to the one "
          "before it: %s",
          step,
          _first_line(error.__cause__ or error),
        )
        continue
      raise ValueError(
        f"the checkpoint of step {step} in {_folder(workdir)} has other "
        "parameters than this version of slim: continue with the version in "
        "its config.json"
      )
  if steps:
    raise ValueError(
      f"no readable checkpoint in {_folder(workdir)}: all of the steps {steps} "
      "are damaged; train into another --workdir"
    )
  return None


def _restore_args(abstract_state: TrainState) -> ocp.args.Composite:
  """Asks Orbax for a state on the first device."""
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device),
    abstract_state,
  )
  return ocp.args.Composite(
    **{
      _STATE: ocp.args.StandardRestore(target),
      _METADATA: ocp.args.JsonRestore(),
    }
  )


def list_steps(workdir: str) -> list[int]:
  """Lists the checkpoints of a run, damaged ones too; changes nothing on disk.

  Args:
    workdir: The folder of a run, which need not exist.

  Returns:
    Their steps in ascending order.
  """
  if not os.path.isdir(_folder(workdir)):
    return []
  names = os.listdir(_folder(workdir))
  return sorted(int(name) for name in names if name.isdecimal())


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
      shutil.move(os.path.join(_folder(workdir), str(step)), free)


def _first_line(error: BaseException) -> str:
  """Returns the first line of a message, or part of a long one."""
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _folder(workdir: str) -> str:
  """Returns the folder of checkpoints as an absolute path, as Orbax needs."""
  return os.path.join(os.path.abspath(workdir), "checkpoints")
