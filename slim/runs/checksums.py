"""Checksums of a folder: what is read is what was written.

The file CHECKSUMS has a line for each other file, as `xxh128sum` writes it, so
`xxh128sum -c CHECKSUMS` verifies a folder, too.
"""

import os

import xxhash

from slim.files import list_tree, open_regular, write_file

_NAME = "CHECKSUMS"
_BLOCK = 2**20  # Bytes read at a time.
_LONGEST = 2**26  # Bytes of the longest CHECKSUMS that is read.


def write_checksums(folder: str) -> None:
  """Writes the checksums of all files in a folder.

  Args:
    folder: The folder; its files do not change any more.

  Raises:
    ValueError: If the file cannot be written.
    OSError: If a file cannot be read.
  """
  lines = [
    f"{_checksum(path)}  {os.path.relpath(path, folder)}\n"
    for path in list_tree(folder)[0]
  ]
  write_file(os.path.join(folder, _NAME), "".join(lines).encode())


def verify_checksums(folder: str) -> None:
  """Raises unless all files in a folder are as they were written.

  A damaged CHECKSUMS is found, too. If a line is changed, the checksum or the
  file of that name is wrong. If a line is lost, its file is not listed. Hidden
  files, which some systems add, are ignored.

  Args:
    folder: The folder.

  Raises:
    ValueError: It names the first file that is damaged, missing or new.
  """
  try:
    with open_regular(os.path.join(folder, _NAME)) as file:
      text = file.read(_LONGEST).decode()
  except FileNotFoundError as error:
    raise ValueError(
      f"there is no {_NAME}, it is damaged or of an older version"
    ) from error
  except (OSError, ValueError) as error:
    raise ValueError(f"{_NAME} cannot be read") from error
  expected = {}
  for line in text.split("\n")[:-1]:
    checksum, _, name = line.partition("  ")
    if name in expected:
      raise ValueError(f"{_NAME} has two lines of {name}")
    expected[name] = checksum
  found = [os.path.relpath(path, folder) for path in list_tree(folder)[0]]
  found = [name for name in found if os.path.basename(name)[0] != "."]
  for name in found:
    if name not in expected and name != _NAME:
      raise ValueError(f"{name} is not in {_NAME}")
  for name, checksum in expected.items():
    path = os.path.join(folder, name)
    try:
      is_damaged = _checksum(path) != checksum
    except OSError as error:
      raise ValueError(f"{name} cannot be read: {error.strerror}") from error
    if is_damaged:
      raise ValueError(f"{name} is not as it was written")


def _checksum(path: str) -> str:
  """Returns the XXH3-128 of a file."""
  digest = xxhash.xxh3_128()
  with open_regular(path) as file:
    while block := file.read(_BLOCK):
      digest.update(block)
  return digest.hexdigest()
