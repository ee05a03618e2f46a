"""`config.json`: the settings of a run, its data and what has trained it."""

import json
import os
from typing import Any

import ml_collections

from slim import config as config_lib
from slim.files import write_file, writing
from slim.runs.checkpoints import RECORD, is_checkpoint
from slim.runs.provenance import describe_process


def is_run(workdir: str) -> bool:
  """Tells whether a folder holds a run.

  Args:
    workdir: A folder, which need not exist.

  Returns:
    Whether it has a config.json.
  """
  return os.path.exists(_path(workdir))


def write_config(
  workdir: str, config: ml_collections.ConfigDict, data: str, start: int = 0
) -> dict[str, Any]:
  """Writes the settings of a run, its data and the processes that train it.

  Args:
    workdir: The folder, checked by `check_workdir`. It is created if needed.
    config: All settings.
    data: The description of the training data.
    start: The step from which this process trains.

  Returns:
    What the file holds: "config", "data", and "processes", which describe this
    process and, before it, those that have trained the run so far.

  Raises:
    ValueError: If the file cannot be written.
  """
  processes = read_processes(workdir) if is_run(workdir) else []
  record = {
    "config": config.to_dict(),
    "data": data,
    "processes": [*processes, {"start": start} | describe_process()],
  }
  with writing(workdir):
    os.makedirs(workdir, exist_ok=True)
  write_file(_path(workdir), json.dumps(record, indent=2).encode())
  return record


def read_processes(workdir: str) -> list[dict[str, Any]]:
  """Reads which processes have trained a run.

  Args:
    workdir: Its folder.

  Returns:
    What `describe_process` returned in each of them, and its first step.

  Raises:
    ValueError: If the record is damaged.
  """
  processes = _read(_path(workdir)).get("processes")
  if not isinstance(processes, list):
    raise _damaged(_path(workdir))
  return processes


def read_config(
  workdir: str, name: str = "--workdir"
) -> ml_collections.ConfigDict:
  """Reads the settings of a run.

  Args:
    workdir: Its folder, or that of one checkpoint alone.
    name: The flag or setting that names it, for errors.

  Returns:
    All settings. A setting that is newer than the run has its default.

  Raises:
    ValueError: If there are none, or they are damaged or invalid.
  """
  path = _path(workdir)
  if is_checkpoint(workdir):
    path = os.path.join(workdir, RECORD)
  return parse_config(_read(path, name), path, name)


def parse_config(
  record: dict[str, Any], path: str, name: str = "--workdir"
) -> ml_collections.ConfigDict:
  """Reads the settings in the record of a run or of a checkpoint.

  Args:
    record: What `write_config` returned.
    path: Its file, for errors.
    name: The flag or setting that names the run, for errors.

  Returns:
    All settings. A setting that is newer than the run has its default.

  Raises:
    ValueError: If they are damaged or invalid.
  """
  config = config_lib.base()
  try:
    config.update(record["config"])
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise _damaged(path, name) from error
  config_lib.validate(config)
  return config.lock()


def _read(path: str, name: str = "--workdir") -> dict[str, Any]:
  """Reads a record of a run."""
  try:
    with open(path, encoding="utf-8") as file:
      record = json.load(file)
  except OSError as error:
    raise ValueError(
      f"{name} must be the folder of a run, with a config.json: cannot read "
      f"{path}: {error.strerror}"
    ) from error
  except (ValueError, RecursionError) as error:
    raise _damaged(path, name) from error
  if not isinstance(record, dict):
    raise _damaged(path, name)
  return record


def _damaged(path: str, name: str = "--workdir") -> ValueError:
  """The error for a file that holds no settings."""
  return ValueError(
    f"{name}: {path} is damaged, not the settings of a run: choose another"
  )


def _path(workdir: str) -> str:
  """Returns the path of the settings."""
  return os.path.join(workdir, "config.json")
