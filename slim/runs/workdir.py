"""The folder of a run: what may be in it, and who may write there.

A folder holds one run. Using it again continues that run, so the settings must
be the same, except the few that do not change its numbers.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator, Sequence

import ml_collections

from slim import config as config_lib
from slim.files import check_folder, local_path, writing
from slim.runs.checkpoints import is_checkpoint
from slim.runs.config_json import is_run, read_config

_LOG = logging.getLogger("slim.runs.workdir")

# Settings that may differ when a run is continued. So may the paths of data:
# fingerprints in the checkpoint ensure that the bytes are the same.
_MAY_DIFFER = (
  "mesh",
  "model.stack_layers",
  "profile.steps",
  "train.checkpoint_every",
  "train.eval_every",
  "train.keep_best",
  "train.keep_checkpoints",
  "train.log_every",
  "train.max_minutes",
  "train.patience",
  "train.tensorboard",
)

_FILES = (".lock", "config.json", "log.txt", "metrics.jsonl")
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


def check_workdir(
  workdir: str,
  config: ml_collections.ConfigDict,
  allow_change: Sequence[str] = (),
) -> None:
  """Raises if a folder belongs to something else; writes nothing.

  Args:
    workdir: A folder, which need not exist.
    config: The settings of the run that will use it.
    allow_change: Names of settings that may differ from those of the run in the
      folder, though its numbers depend on them.

  Raises:
    ValueError: If the folder holds a run with other settings, results of an
      unknown run, or a file where a folder is needed.
  """
  if is_checkpoint(workdir):
    raise ValueError(
      f"--workdir {workdir} is a checkpoint: choose another, and pass this one "
      "as --config.train.init_from to start from its weights"
    )
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
  found = changed_settings(stored, config)
  refused = [name for name in found if name not in allow_change]
  if refused:
    listed = ", ".join(
      f"config.{name} ({old[name]!r} there, {new[name]!r} here)"
      for name in refused
    )
    raise ValueError(
      f"--workdir {workdir} belongs to another config; different: {listed}: "
      "choose another --workdir, or the same settings to continue that run, or "
      f"--allow_change={','.join(refused)}"
    )


def changed_settings(
  before: ml_collections.ConfigDict, config: ml_collections.ConfigDict
) -> list[str]:
  """Lists the settings of a run that have changed and decide its numbers.

  Args:
    before: The settings that it had.
    config: Those with which it is continued.

  Returns:
    The dotted names of the settings.
  """
  ignored = (*_MAY_DIFFER, *config_lib.list_data_paths())
  if not config_lib.depends_on_num_steps(config):
    ignored = (*ignored, "train.num_steps")
  return config_lib.differences(before, config, ignored=ignored)


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
    path = os.path.join(workdir, ".lock")
    # Without following a link, or changing what it leads to.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, 0o666), "r+b")
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
