"""`workdir/config.json`: which experiment a folder belongs to.

A folder holds one run. Whoever names it again continues that run, so its
settings must be the same, but for the few that change no number of it.
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

# May differ when a run is continued. `data.path` too: that the bytes are the
# same is what the fingerprint in the checkpoint is for.
_MAY_DIFFER = (
  "data.path",
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
  """Reads the folder that a run is to be written to; writes nothing.

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
  """Tells whether a folder is that of a run, with settings of its own.

  Args:
    workdir: A folder, which need not exist.

  Returns:
    Whether there is a config.json.
  """
  return os.path.exists(_path(workdir))


def check_workdir(workdir: str, config: ml_collections.ConfigDict) -> None:
  """Refuses a folder that belongs to something else; writes nothing.

  Args:
    workdir: A folder, which need not exist.
    config: The settings of the run that wants it.

  Raises:
    ValueError: If the folder is that of a run with other settings, or has
      results of an unknown run in it, or a file in the place of a folder.
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
          f"--workdir {workdir} has {name} but no config.json, so nobody knows "
          "what run it is of: choose another --workdir"
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
  """Keeps other processes from training in a folder; they may read it.

  The lock ends with the process, however that ends; only its file stays.

  Args:
    workdir: The folder, created if needed, that `check_workdir` has let pass.

  Yields:
    Nothing.

  Raises:
    ValueError: If another process trains there.
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
    except OSError as error:  # Some file systems of clusters have no locks.
      _LOG.warning(
        "--workdir %s cannot be locked, %s: train there in one process only",
        workdir,
        error.strerror,
      )
    yield


def write_config(
  workdir: str, config: ml_collections.ConfigDict, data: str
) -> None:
  """Writes the settings, what they train on and the versions of what runs them.

  Args:
    workdir: The folder, created if needed, that `check_workdir` has let pass.
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
    "git_commit": _git_commit(),
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
    All settings; one that is newer than the run has its default.

  Raises:
    ValueError: If there are none, or they are damaged or no longer valid.
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


def _may_differ(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Returns the settings that change no number of this run when continued."""
  if config_lib.depends_on_num_steps(config):
    return _MAY_DIFFER
  return (*_MAY_DIFFER, "train.num_steps")


def _path(workdir: str) -> str:
  """Returns where the settings are."""
  return os.path.join(workdir, "config.json")


def _git_commit() -> str | None:
  """Returns the commit that slim runs from, if it runs from a repository."""
  folder, file = os.path.split(os.path.abspath(__file__))

  def git(*arguments):
    command = ["git", *arguments]
    result = subprocess.run(
      command, cwd=folder, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()

  try:
    # Or it is the repository of a user who has slim installed inside it.
    git("ls-files", "--error-unmatch", file)
    return git("describe", "--always", "--dirty", "--abbrev=40")
  except (OSError, subprocess.CalledProcessError):
    return None
