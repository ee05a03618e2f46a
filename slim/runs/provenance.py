"""What made a result: versions, code, device and date."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

import jax

import slim

# What the numbers of a run may depend on.
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


def describe_process() -> dict[str, Any]:
  """Describes what runs in this process, for the records of a run.

  Returns:
    "versions", "git_commit", "device" and "date", as JSON can hold them.
  """
  now = datetime.datetime.now(datetime.UTC)
  return {
    "versions": {
      "slim": slim.__version__,
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    "git_commit": git_commit(),
    "device": jax.devices()[0].device_kind,
    "date": now.isoformat(timespec="seconds"),
  }


def list_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
  """Lists what has changed between two processes of a run.

  Args:
    before: As `describe_process` returned it then.
    now: As it returns it now.

  Returns:
    One text for each change, "jax 0.10.2 -> 0.11.0". Dates are not compared.
  """

  def flat(process):
    return {
      **process["versions"],
      "device": process["device"],
      "code": process["git_commit"],
    }

  old, new = flat(before), flat(now)
  return [
    f"{name} {old.get(name)} -> {new[name]}"
    for name in new
    if old.get(name) != new[name]
  ]


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
