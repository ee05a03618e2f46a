"""Texts: reading the bytes of any file, and cutting splits from them."""

import os
from typing import NamedTuple

import numpy as np

from slim.files import local_path
from slim.settings import SettingError

VOCAB_SIZE = 256

# The bounds of a split, in percent of the bytes. For the 10^8 bytes of enwik8
# these are the usual 90 M, 5 M and 5 M.
_PERCENT = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}

# The first bytes of compressed files, which cannot be modelled.
_COMPRESSED = {
  "7z": (b"7z\xbc\xaf\x27\x1c",),
  "bzip2": tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)),
  "compress": (b"\x1f\x9d",),
  "gzip": (b"\x1f\x8b",),
  "lz4": (b"\x04\x22\x4d\x18",),
  "lzip": (b"LZIP\x01",),
  "lzma": (b"\x5d\x00\x00",),
  "rar": (b"Rar!\x1a\x07",),
  "snappy": (b"\xff\x06\x00\x00sNaPpY",),
  "xz": (b"\xfd7zXZ\x00",),
  "zip": (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"),
  "zstd": (b"\x28\xb5\x2f\xfd",),
}


class TextSplit(NamedTuple):
  """The tokens of a split, and the text it belongs to."""

  name: str  # The whole text, in a few words.
  split: str  # One of `dataset.SPLITS`.
  data: np.ndarray  # The tokens of the split: uint8 for bytes, or any integers.
  size: int  # Tokens in the whole text.
  unit: str = "bytes"  # What tokens are.


def load_text(path: str | os.PathLike[str]) -> np.ndarray:
  """Maps a file into memory as an array of bytes.

  Args:
    path: Any file. Nothing is decoded.

  Returns:
    The bytes of the file, uint8, read-only.

  Raises:
    SettingError: If the file does not exist, cannot be read or is empty.
  """
  advice = "pass the path of a file to read as bytes"
  path = local_path("path", path)
  try:
    if os.path.getsize(path) == 0:
      raise SettingError("path", f": {str(path)!r} is empty, 0 bytes; {advice}")
    return np.memmap(path, np.uint8, mode="r")
  except OSError as error:
    raise SettingError(
      "path",
      f": cannot read {str(path)!r}: {error.strerror}; {advice}",
    ) from error


def check_uncompressed(path: str | os.PathLike[str], data: np.ndarray) -> None:
  """Raises if a text is compressed, judging by its first bytes.

  Args:
    path: The file, for the error.
    data: Its bytes, uint8.

  Raises:
    SettingError: If it is a gzip, zip, bzip2, xz, zstd … file.
  """
  for kind, beginnings in _COMPRESSED.items():
    if data[:16].tobytes().startswith(beginnings):
      raise SettingError(
        "path",
        f": {str(path)!r} is a text compressed by {kind}: unpack it, and "
        "pass the path of what is inside",
      )


def cut_text(name: str, data: np.ndarray, split: str) -> TextSplit:
  """Cuts a split from a text: the first 90 %, the next 5 % or the last 5 %.

  Args:
    name: The text, in a few words.
    data: The bytes of the whole text, uint8, or its tokens.
    split: One of `dataset.SPLITS`.

  Returns:
    The split; its data is a view of `data`. Bounds are rounded down.
  """
  start, stop = split_bounds(data.size, split)
  return TextSplit(name, split, data[start:stop], data.size)


def split_bounds(size: int, split: str) -> tuple[int, int]:
  """Returns the bounds of a split, as in `cut_text`.

  Args:
    size: Bytes in the whole text.
    split: One of `dataset.SPLITS`.

  Returns:
    The index of its first byte, and of the byte after its last.
  """
  start, stop = _PERCENT[split]
  return size * start // 100, size * stop // 100
