"""Arrays of tokens in .npy and .npz files, mapped into memory."""

import os
import zipfile

import numpy as np

from slim.data.dataset import SPLITS
from slim.data.splits import TextSplit, cut_text
from slim.files import first_line, local_path
from slim.settings import SettingError


def read_tokens(
  path: str | os.PathLike[str], split: str, vocab_size: int
) -> TextSplit:
  """Maps a split of a file of tokens into memory; nothing is copied.

  A .npy file holds one array, which is cut 90/5/5. A .npz file, as `np.savez`
  writes it, holds either one array or those of the splits, "train",
  "validation" and "test". The file must not change while it is used.

  Args:
    path: The file.
    split: One of `SPLITS`.
    vocab_size: Number of different tokens.

  Returns:
    The split.

  Raises:
    SettingError: If the file cannot be read, or holds something else than
      integers from 0 to vocab_size - 1 along one axis.
  """
  arrays = map_arrays("path", path)
  name = "tokens"  # The file may be renamed, like a text.
  if len(arrays) == 1:
    [data] = arrays.values()
    found = cut_text(name, data, split)
  else:
    size = sum(x.size for x in arrays.values())
    found = TextSplit(name, split, arrays[split], size)
  smallest, largest = _range(found.data)
  if smallest < 0 or largest >= vocab_size:
    # Other tokens would make the logits NaN without an error.
    raise SettingError(
      "vocab_size",
      f"must be above every token, and {str(path)!r} has tokens from "
      f"{smallest} to {largest}, got {vocab_size}",
    )
  return found._replace(unit="tokens")


def map_arrays(
  setting: str, path: str | os.PathLike[str]
) -> dict[str, np.ndarray]:
  """Maps a .npy or .npz file of integers into memory.

  Args:
    setting: The setting that names the file, for errors.
    path: The file.

  Returns:
    One array, or one for each of `SPLITS`, by name; all have one axis.

  Raises:
    SettingError: If the file cannot be read, or holds something else.
  """
  path = local_path(setting, path)
  try:
    arrays: dict[str, np.ndarray]
    if path.endswith(".npz"):
      arrays = _map_archive(path)
    else:
      arrays = {"": np.lib.format.open_memmap(path, mode="r")}
  # numpy raises many kinds of errors for damaged files.
  except Exception as error:
    reason = getattr(error, "strerror", None) or first_line(error)
    raise SettingError(
      setting,
      f": cannot read {path!r}: {reason}; pass a .npy or .npz "
      "file of integers, as numpy.save or numpy.savez writes it",
    ) from error
  if len(arrays) != 1 and set(arrays) != set(SPLITS):
    raise SettingError(
      setting,
      f": {path!r} must have one array, or train, validation and test, has "
      f"{', '.join(arrays) or 'none'}",
    )
  for data in arrays.values():
    if data.ndim != 1 or not np.issubdtype(data.dtype, np.integer):
      raise SettingError(
        setting,
        f": {path!r} must hold integers along one axis, has "
        f"{data.dtype}{list(data.shape)}",
      )
  return arrays


def _map_archive(path: str) -> dict[str, np.ndarray]:
  """Maps the arrays of a .npz file, which must not be compressed."""
  arrays: dict[str, np.ndarray] = {}
  with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
    for info in archive.infolist():
      if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
          f"{info.filename} is compressed and cannot be mapped: write it with "
          "numpy.savez, not savez_compressed"
        )
      with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        read = {
          (1, 0): np.lib.format.read_array_header_1_0,
          (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(member)
        header_size = member.tell()
      # The header of a member has its own lengths of name and extra field.
      file.seek(info.header_offset + 26)
      lengths = np.frombuffer(file.read(4), "<u2")
      offset = info.header_offset + 30 + int(lengths.sum()) + header_size
      name = info.filename.removesuffix(".npy")
      if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
      arrays[name] = np.memmap(path, dtype, "r", offset, shape)
  return arrays


def _range(data: np.ndarray) -> tuple[int, int]:
  """Returns the smallest and the largest token; (0, 0) for none."""
  parts = [data[i : i + 2**24] for i in range(0, data.size, 2**24)]
  if not parts:
    return 0, 0
  return (
    min(int(part.min()) for part in parts),
    max(int(part.max()) for part in parts),
  )
