"""Paths that the user names: checked before long work, and written whole."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(name: str, path: str | os.PathLike[str]) -> str:
  """Reads a path that the user gave.

  Args:
    name: Of the flag, setting or argument, for the error.
    path: The path. A shell expands "~" at the start of a word only, and not
      in `--workdir=~/runs/x`, so it is expanded here.

  Returns:
    The path on this machine.

  Raises:
    ValueError: If it is empty, an address such as gs://bucket/run, or in the
      home of a user who does not exist.
  """
  text = os.fspath(path)
  if not text.strip() or "\0" in text:
    raise ValueError(f"{name} must be a path, got {text!r}")
  if _SCHEME.match(text):
    raise ValueError(
      f"{name} must be a path on this machine, got {text!r}: mount the bucket, "
      "or copy to and from it"
    )
  expanded = os.path.expanduser(text)
  if expanded.startswith("~"):
    raise ValueError(
      f"{name} must be a path, got {text!r}, and there is no such user: write "
      f"./{text} for a file of that name"
    )
  return expanded


def check_new_file(name: str, path: str) -> None:
  """Refuses a file that exists or cannot be written; leaves nothing behind.

  Args:
    name: Of the argument, for the error.
    path: The file.

  Raises:
    ValueError: If it cannot become a new file.
  """
  if os.path.lexists(path):
    raise ValueError(
      f"{name} must be a new file, and {path} exists: choose another name, or "
      "remove it"
    )
  if not os.path.isdir(os.path.dirname(path) or "."):
    raise ValueError(
      f"{name}: cannot write {path}: its folder does not exist: create it, or "
      "choose another"
    )
  with writing(path, name):
    with open(path, "xb"):
      os.remove(path)


def check_folder(name: str, folder: str) -> None:
  """Refuses a folder that cannot be created or written; leaves nothing behind.

  Permissions alone do not tell: they allow root to write to a read-only disk.
  So this creates the missing folders, under another name, and removes them.

  Args:
    name: Of the argument, for the error.
    folder: The folder, which need not exist.

  Raises:
    ValueError: If no file can be written there.
  """
  existing, missing = os.path.abspath(folder), []
  while not os.path.lexists(existing):
    existing, last = os.path.split(existing)
    missing.insert(0, last)
  if not os.path.isdir(existing):
    found = "the file" if not missing else f"{folder}, below the file"
    raise ValueError(f"{name} must be a folder, got {found} {existing}")
  with writing(folder, name):
    with tempfile.TemporaryDirectory(prefix=".", dir=existing) as probe:
      os.makedirs(os.path.join(probe, *missing), exist_ok=True)


@contextlib.contextmanager
def writing(path: str, name: str | None = None) -> Iterator[None]:
  """Lets an error of the disk say what could not be written.

  Args:
    path: What is written inside.
    name: Of the argument that it comes from, if that is to be changed.

  Yields:
    Nothing.

  Raises:
    ValueError: If an OSError is raised inside.
  """
  try:
    yield
  except OSError as error:
    argument = f"{name}: " if name else ""
    advice = "choose another place" if name else "free space there"
    raise ValueError(
      f"{argument}cannot write {path}: {error.strerror or error}: {advice}"
    ) from error
