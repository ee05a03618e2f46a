"""Restoring checkpoints: only those whose bytes are as they were written."""

import json
import logging
import os
from typing import Any

import jax
import orbax.checkpoint as ocp

from slim.models import stacking
from slim.runs._stored_arrays import (
  count_stored_stacks,
  name_shapes,
  read_shapes,
)
from slim.runs.checkpoints import (
  ARRAYS,
  RECORD,
  checkpoints_folder,
  is_checkpoint,
  list_steps,
)
from slim.runs.checksums import verify_checksums
from slim.scale import processes
from slim.training.devices import place_like, shardings_of
from slim.types import TrainState

_LOG = logging.getLogger("slim.runs.restoring")


def find_checkpoint(
  workdir: str, *, step: int | None = None, name: str = "--workdir"
) -> str:
  """Finds a checkpoint of a run that has one, and verifies its bytes.

  Args:
    workdir: The folder of the run, or of one checkpoint alone.
    step: Its step; None: the newest that is readable.
    name: The flag or setting that names the folder, for errors.

  Returns:
    The folder of the checkpoint.

  Raises:
    ValueError: If there is no checkpoint, or none can be read.
  """
  folder = workdir
  if step is not None:
    folder = os.path.join(checkpoints_folder(workdir), str(step))
  if step is not None or is_checkpoint(workdir):
    try:
      verify_checksums(folder)
    except ValueError as error:
      raise ValueError(
        f"{name}: {folder} is a damaged checkpoint: {error}: choose another"
      ) from error
    return folder
  newest = _find_newest(workdir)
  if newest is None:
    raise ValueError(
      f"{name} {workdir} has no checkpoint yet: train first, or longer"
    )
  return newest


def restore_newest(
  workdir: str, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]] | None:
  """Restores the newest readable checkpoint; changes nothing on disk.

  Args:
    workdir: The folder of a run.
    abstract_state: The shapes and dtypes to expect, from `jax.eval_shape`.

  Returns:
    The state and the record, or None if nothing has been saved yet. Newer
    checkpoints that are damaged are logged.

  Raises:
    ValueError: If there are checkpoints but none is readable, or the newest
      readable one has other parameters.
  """
  newest = _find_newest(workdir)
  return None if newest is None else restore(newest, abstract_state)


def _find_newest(workdir):
  """Returns the folder of the newest readable checkpoint of a run, or None."""
  # One process decides, or they might restore different steps.
  newest = _newest_step(workdir) if processes.is_first() else None
  step = processes.choose_first(-1 if newest is None else newest)
  if step < 0:
    return None
  return os.path.join(checkpoints_folder(workdir), str(step))


def _newest_step(workdir):
  """Returns the step of the newest readable checkpoint of a run, or None."""
  steps = list_steps(workdir)[::-1]
  for step in steps:
    folder = os.path.join(checkpoints_folder(workdir), str(step))
    try:
      verify_checksums(folder)
    except ValueError as error:
      _LOG.warning(
        "the checkpoint of step %d is damaged, falling back to the one before "
        "it: %s",
        step,
        error,
      )
      continue
    return step
  if steps != list_steps(workdir)[::-1]:  # A run has saved meanwhile.
    return _newest_step(workdir)
  if steps:
    raise ValueError(
      f"no readable checkpoint in {checkpoints_folder(workdir)}: all of the "
      f"steps {steps} are damaged; train into another --workdir"
    )
  return None


def restore(
  folder: str, abstract_state: TrainState
) -> tuple[TrainState, dict[str, Any]]:
  """Restores a checkpoint.

  Args:
    folder: Its folder, from `find_checkpoint`.
    abstract_state: The shapes and dtypes to expect, from `jax.eval_shape`.

  Returns:
    The state and the record.

  Raises:
    ValueError: If it has other parameters.
  """
  folder = os.path.abspath(folder)  # As Orbax needs.
  arrays = os.path.join(folder, ARRAYS)
  shapes = read_shapes(arrays)
  # Equal layers may have been stacked or not when it was saved.
  stored = jax.eval_shape(
    lambda state: stacking.to_form(state, count_stored_stacks(shapes)),
    abstract_state,
  )
  if shapes != name_shapes(stored):
    raise ValueError(
      f"the checkpoint {folder} has parameters that differ from those that "
      "this version of slim makes from the settings: continue with the "
      f"settings and the version in its {RECORD}, or start another run from "
      "its weights with config.train.init_from"
    )
  target = place_like(stored, abstract_state)
  with ocp.StandardCheckpointer() as checkpointer:
    state = checkpointer.restore(arrays, target)
  with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
    record = json.load(file)
  structure: Any = jax.tree.structure(state)  # Its type has no `==`.
  if structure == jax.tree.structure(abstract_state):
    return state, record
  match_form = jax.jit(
    lambda state: stacking.match_form(state, abstract_state.params),
    out_shardings=shardings_of(abstract_state),
  )
  return match_form(state), record
