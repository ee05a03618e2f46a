"""Paths that the user gave: checked before long work starts."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(name: str, path: str | os.PathLike[str]) -> str:
  """Resolves a path that the user gave.

  Args:
    name: The flag, setting or argument, for the error.
    path: The path. "~" is expanded here, because a shell expands it only at
      the start of a word, and not in `--workdir=~/runs/x`.

  Returns:
    The path on this machine.

  Raises:
    ValueError: If it is empty, a URL such as gs://bucket/run, or in the home of
      a user who does not exist.
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
  """Raises if a file exists or cannot be written; leaves nothing behind.

  Args:
    name: The argument, for the error.
    path: The file.

  Raises:
    ValueError: If the file cannot be created.
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
  """Raises if a folder cannot be created or written; leaves nothing behind.

  Permissions are not enough: they allow root to write to a read-only disk. So
  this creates the missing folders under another name, and removes them.

  Args:
    name: The argument, for the error.
    folder: The folder, which need not exist.

  Raises:
    ValueError: If no file can be written in it.
  """
  existing = os.path.abspath(folder)
  missing: list[str] = []
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
  """Turns an OSError into one line that names the path.

  Args:
    path: The file that is written in this context.
    name: The argument with the path, if the user can choose another.

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
