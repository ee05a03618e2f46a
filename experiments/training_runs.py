"""Trains configs to compare them; interrupted runs are resumed."""

import json
import os
import pathlib
import statistics
import zlib
from typing import Any

import jax
import ml_collections
import numpy as np
from record import join_commits

from slim.files import write_file
from slim.runs.compilation_cache import default_folder, use_cache
from slim.runs.config_json import read_processes
from slim.runs.metrics import read_records
from slim.train import train_and_evaluate
from slim.training.build import create_split
from slim.types import Params

_SPEED = "time/tokens_per_second"


def shorten(
  config: ml_collections.ConfigDict, num_steps: int, num_logs: int
) -> None:
  """Sets the number of steps, and how often to log, evaluate and save.

  Args:
    config: All settings. They are changed in place.
    num_steps: Training steps.
    num_logs: How many points a curve has.
  """
  config.train.update(
    num_steps=num_steps,
    log_every=max(1, num_steps // num_logs),
    eval_every=max(1, num_steps // 4),
    checkpoint_every=max(1, num_steps // 10),
    keep_checkpoints=1,
  )


def train(
  config: ml_collections.ConfigDict, folder: str | os.PathLike[str]
) -> tuple[Any, list[dict[str, Any]]]:
  """Trains a config, or resumes its run.

  Args:
    config: All settings.
    folder: The run's folder.

  Returns:
    The parameters, and the records of metrics.jsonl.
  """
  folder = pathlib.Path(folder)
  use_cache(default_folder())  # Runs that differ in a seed share programs.
  params = train_and_evaluate(config, str(folder)).params
  return params, read_records(str(folder / "metrics.jsonl"))


def summarize(
  config: ml_collections.ConfigDict,
  folder: pathlib.Path,
  params: Any,
  records: list[dict[str, Any]],
) -> dict[str, Any]:
  """Returns what a table says of each run: its size, speed and commits.

  Args:
    config: All settings.
    folder: The run's folder.
    params: As `train` returns them.
    records: Likewise.

  Returns:
    Columns of a row.
  """
  speeds = [x[_SPEED] for x in records if _SPEED in x]
  steps = config.train.num_steps
  return {
    "parameters": sum(x.size for x in jax.tree.leaves(params)),
    "steps": steps,
    "tokens": steps * config.train.batch_size * config.data.sequence_length,
    "median_tokens_per_second": statistics.median_high(speeds),
    "commit": join_commits(commits_of_run(folder)),
  }


def complete_records(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads the records of an interrupted run, to which others can be appended.

  Args:
    path: A file with a record in JSON on each line; there may be none yet. A
      last line that was cut off is removed from it.

  Returns:
    The records.
  """
  if not path.exists():
    return []
  records = list(read_records(str(path)))
  lines = "".join(f"{json.dumps(x)}\n" for x in records)
  write_file(str(path), lines.encode())
  return records


def commits_of_run(folder: str | os.PathLike[str]) -> list[str | None]:
  """Returns the commits of the code that trained a run."""
  return [x["git_commit"] for x in read_processes(os.fspath(folder))]


def checksum(params: Params) -> str:
  """Returns what tells the weights of one run from those of another."""
  found = 0
  for x in jax.tree.leaves(params):
    found = zlib.crc32(np.asarray(x), found)
  return f"{found:08x}"


def describe_data(config: ml_collections.ConfigDict) -> str:
  """Describes the training data of a config."""
  return create_split(config, "train", config.train.batch_size).description
