"""Files: paths are checked before long work, and what is written stays.

A file that is written here is complete and on the disk when the function
returns, or it is as it was before. Temporary files have names that nobody can
foresee, and a link in their place is not followed.
"""

import concurrent.futures
import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from typing import IO

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


def first_line(error: BaseException, max_length: int | None = None) -> str:
  """Shortens the message of an error to one line.

  Args:
    error: The error, which may come from a library.
    max_length: Characters that are kept; None: all of the line.

  Returns:
    The first line of the message, or the type if it is empty.
  """
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return (lines[0] if lines else type(error).__name__)[:max_length]


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


def write_file(path: str, data: bytes, name: str | None = None) -> None:
  """Writes a file, or replaces it; path and name as for `open_to_replace`."""
  with open_to_replace(path, name) as file:
    file.write(data)


@contextlib.contextmanager
def open_to_replace(path: str, name: str | None = None) -> Iterator[IO[bytes]]:
  """Opens a new file that replaces the one of a path, unless there is an error.

  Args:
    path: Where it is at the end; the folder exists.
    name: The argument with the path, if the user can choose another.

  Yields:
    The open file.

  Raises:
    ValueError: If it cannot be written.
  """
  # tempfile would make the file unreadable for other users.
  temporary = f"{path}.{secrets.token_hex(8)}.tmp"
  try:
    with writing(path, name):
      with open(temporary, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
      sync([os.path.dirname(path) or "."])
  finally:
    with contextlib.suppress(OSError):
      os.remove(temporary)


def open_to_append(path: str) -> IO[bytes]:
  """Opens a file to append to it, creating it if needed; follows no link.

  Args:
    path: The file.

  Returns:
    The open file.

  Raises:
    ValueError: If it cannot be written, or a link is in its place.
  """
  flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
  with writing(path):
    if os.path.islink(path):
      raise OSError(errno.ELOOP, "a link is in its place")
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def open_regular(path: str) -> IO[bytes]:
  """Opens a file to read; no device or pipe, which may never end.

  Args:
    path: The file.

  Returns:
    The open file.

  Raises:
    OSError: If it cannot be read, or is something else.
  """
  number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
  if not stat.S_ISREG(os.fstat(number).st_mode):
    os.close(number)
    raise OSError(errno.EINVAL, "it is no regular file", path)
  return os.fdopen(number, "rb")


def list_tree(folder: str) -> tuple[list[str], list[str]]:
  """Lists what is in a folder and in those below; follows no link.

  Returns:
    The files and links, and the folders with the first one; both sorted.
  """
  files, folders = [], []
  for parent, _, names in os.walk(folder):
    folders.append(parent)
    files += [os.path.join(parent, name) for name in names]
  return sorted(files), sorted(folders)


def sync(paths: list[str]) -> None:
  """Waits until files and the names in folders are on the disk.

  Raises:
    OSError: If the disk fails.
  """

  def sync_one(path):
    number = os.open(path, os.O_RDONLY)
    try:
      os.fsync(number)
    except OSError as error:
      # Some file systems cannot do it for folders.
      if error.errno not in (errno.EINVAL, errno.ENOTSUP):
        raise
    finally:
      os.close(number)

  # At once, as the disk can write them together.
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(sync_one, paths))
