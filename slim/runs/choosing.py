"""Choosing one of the checkpoints of a run: the latest, the best, a step."""

import os

import ml_collections

from slim.runs.best import Best
from slim.runs.checkpoints import is_checkpoint, list_steps
from slim.runs.metrics import read_records

HELP = "Checkpoint: latest, best by train.keep_best or loss, or its step."


def choose_step(
  workdir: str, config: ml_collections.ConfigDict, which: str
) -> int | None:
  """Finds the step of a checkpoint.

  Args:
    workdir: The folder of a run, or of one checkpoint.
    config: All settings of the run.
    which: "latest", "best" or a step.

  Returns:
    The step; None for the latest.

  Raises:
    ValueError: If there is no such checkpoint.
  """
  if which == "latest":
    return None
  if is_checkpoint(workdir):
    raise ValueError(
      f"--step must be 'latest' for one checkpoint, got {which!r}"
    )
  steps = list_steps(workdir)
  if which == "best":
    return _best_step(workdir, config.train.keep_best or "eval/loss", steps)
  if not which.isdecimal() or int(which) not in steps:
    known = ", ".join(map(str, steps)) or "none"
    raise ValueError(
      "--step must be 'latest', 'best' or a step with a checkpoint, of which "
      f"there are {known}, got {which!r}"
    )
  return int(which)


def _best_step(workdir, metric, steps):
  """Finds the checkpoint of the best evaluation among those that are kept."""
  path = os.path.join(workdir, "metrics.jsonl")
  records = read_records(path) if os.path.exists(path) else []
  best = Best(metric, (x for x in records if x["step"] in steps))
  if best.step is None:
    raise ValueError(
      f"--step=best needs a checkpoint of a step with {metric} in {path}: set "
      "config.train.keep_best, or pass a step"
    )
  return best.step
