"""The folder of a run, and `config.json` with the run's settings.

A folder holds one run. Using it again continues that run, so the settings must
be the same, except the few that do not change its numbers.
"""

import contextlib
import fcntl
import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterator

import jax
import ml_collections

import slim
from slim import config as config_lib
from slim.files import check_folder, local_path, writing

_LOG = logging.getLogger("slim.runs.workdir")

# Settings that may differ when a run is continued. `data.path` may, because the
# fingerprint in the checkpoint ensures that the bytes are the same.
_MAY_DIFFER = (
  "data.path",
  "model.stack_layers",
  "profile.steps",
  "train.checkpoint_every",
  "train.eval_every",
  "train.keep_checkpoints",
  "train.log_every",
  "train.tensorboard",
)

_FILES = (".lock", "config.json", "metrics.jsonl")
_FOLDERS = ("checkpoints", "damaged_checkpoints", "profile")


def find_workdir(workdir: str) -> str:
  """Resolves the folder of a run to be written; writes nothing.

  Args:
    workdir: The path that the user gave.

  Returns:
    The path of the folder, which need not exist.

  Raises:
    ValueError: If it is not a path, or no file can be written there.
  """
  workdir = local_path("--workdir", workdir)
  check_folder("--workdir", workdir)
  return workdir


def is_run(workdir: str) -> bool:
  """Tells whether a folder holds a run.

  Args:
    workdir: A folder, which need not exist.

  Returns:
    Whether it has a config.json.
  """
  return os.path.exists(_path(workdir))


def check_workdir(workdir: str, config: ml_collections.ConfigDict) -> None:
  """Raises if a folder belongs to something else; writes nothing.

  Args:
    workdir: A folder, which need not exist.
    config: The settings of the run that will use it.

  Raises:
    ValueError: If the folder holds a run with other settings, results of an
      unknown run, or a file where a folder is needed.
  """
  for name in (*_FILES, *_FOLDERS):
    path = os.path.join(workdir, name)
    if os.path.exists(path) and os.path.isdir(path) != (name in _FOLDERS):
      kind = "folder" if name in _FOLDERS else "file"
      raise ValueError(
        f"--workdir {workdir} must have a {kind} {name}, or nothing of that "
        "name: choose another --workdir"
      )
  if not is_run(workdir):
    for name in ("metrics.jsonl", "checkpoints"):
      if os.path.exists(os.path.join(workdir, name)):
        raise ValueError(
          f"--workdir {workdir} has {name} but no config.json, so its run is "
          "unknown: choose another --workdir"
        )
    return
  stored = read_config(workdir)
  old, new = config_lib.flatten(stored), config_lib.flatten(config)
  found = config_lib.differences(stored, config, ignored=_may_differ(config))
  if found:
    listed = ", ".join(
      f"config.{name} ({old[name]!r} there, {new[name]!r} here)"
      for name in found
    )
    raise ValueError(
      f"--workdir {workdir} belongs to another config; different: {listed}: "
      "choose another --workdir, or the same settings to continue that run"
    )


@contextlib.contextmanager
def lock_workdir(workdir: str) -> Iterator[None]:
  """Prevents other processes from training in a folder; they may read it.

  The lock ends with the process, however that ends. Its file remains.

  Args:
    workdir: The folder, checked by `check_workdir`. It is created if needed.

  Yields:
    Nothing.

  Raises:
    ValueError: If another process is training there.
  """
  with writing(workdir):
    os.makedirs(workdir, exist_ok=True)
    file = open(os.path.join(workdir, ".lock"), "w")
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(
        f"--workdir {workdir} is being trained by another process: wait for "
        "it, or choose another"
      ) from error
    except OSError as error:  # Some cluster file systems have no locks.
      _LOG.warning(
        "--workdir %s cannot be locked, %s: train there in one process only",
        workdir,
        error.strerror,
      )
    yield


def write_config(
  workdir: str, config: ml_collections.ConfigDict, data: str
) -> None:
  """Writes the settings, the data and the versions of a run.

  Args:
    workdir: The folder, checked by `check_workdir`. It is created if needed.
    config: All settings.
    data: The description of the training data.
  """
  os.makedirs(workdir, exist_ok=True)
  record = {
    "config": config.to_dict(),
    "data": data,
    "versions": {
      "slim": slim.__version__,
      "jax": jax.__version__,
      "python": platform.python_version(),
    },
    "git_commit": git_commit(),
  }
  temporary = f"{_path(workdir)}.tmp"
  with writing(_path(workdir)):
    with open(temporary, "w") as file:
      json.dump(record, file, indent=2)
    os.replace(temporary, _path(workdir))


def read_config(workdir: str) -> ml_collections.ConfigDict:
  """Reads the settings of a run.

  Args:
    workdir: Its folder.

  Returns:
    All settings. A setting that is newer than the run has its default.

  Raises:
    ValueError: If there are none, or they are damaged or invalid.
  """
  try:
    with open(_path(workdir)) as file:
      stored = json.load(file)["config"]
    config = config_lib.base()
    config.update(stored)
  except OSError as error:
    raise ValueError(
      f"--workdir must be the folder of a run, with a config.json: cannot read "
      f"{_path(workdir)}: {error.strerror}"
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{_path(workdir)} is damaged, not the settings of a run: choose another "
      "--workdir"
    ) from error
  config_lib.validate(config)
  return config.lock()


def git_commit() -> str | None:
  """Returns the commit of slim, if it runs from a repository.

  Returns:
    Its hash, with "-dirty" if a Python file differs from it. Other files do not
    count, because experiments write their results into the repository.
  """
  folder, file = os.path.split(os.path.abspath(__file__))

  def git(*arguments):
    command = ["git", *arguments]
    result = subprocess.run(
      command, cwd=folder, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()

  try:
    # Fails if slim is installed inside the repository of a user.
    git("ls-files", "--error-unmatch", file)
    # `describe --dirty` writes the index, and on a full disk leaves a lock that
    # stops every later git command.
    changed = git(
      "--no-optional-locks",
      "status",
      "--porcelain",
      "--untracked-files=no",
      ":(top)*.py",
    )
    commit = git("describe", "--always", "--abbrev=40")
    return f"{commit}-dirty" if changed else commit
  except (OSError, subprocess.CalledProcessError):
    return None


def _may_differ(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the settings that may differ when this run is continued."""
  if config_lib.depends_on_num_steps(config):
    return _MAY_DIFFER
  return (*_MAY_DIFFER, "train.num_steps")


def _path(workdir: str) -> str:
  """Returns the path of the settings."""
  return os.path.join(workdir, "config.json")
