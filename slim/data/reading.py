"""Published texts: reading and verifying their files."""

import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

from slim.data.corpora import Corpus, File
from slim.data.dataset import SPLITS
from slim.data.splits import TextSplit, check_uncompressed, cut_text, load_text
from slim.files import local_path
from slim.settings import SettingError


def read_corpus(
  corpus: Corpus, path: str | os.PathLike[str], split: str
) -> TextSplit:
  """Reads a split of a corpus from a path that the user gave.

  A folder must hold the files as they were published. A single file may also be
  any other text, for example a prefix of the corpus. It is cut 90/5/5, and the
  name of the split says so. One file of a corpus with several is refused.

  Args:
    corpus: One of `CORPORA`.
    path: The folder with its files, or its file, or a zip that contains it.
    split: One of `SPLITS`.

  Returns:
    The split.

  Raises:
    SettingError: If a file cannot be read, a zip is damaged, a file is not the
      published one though it must be, or other files of the corpus are missing.
  """
  path = local_path("path", path)
  if os.path.isdir(path):
    paths = find_files(corpus, path)
    if not paths:
      raise SettingError(
        "path",
        f": the folder {str(path)!r} does not hold {corpus.name!r}: it "
        f"needs {corpus.listing}; pass another folder, or one file",
      )
    return read_files(corpus, paths)[split]
  file, *others = corpus.files
  data, names = _read_file(path, file)
  check_uncompressed(path, data)
  if not others and data.size == file.size:
    return _check_and_cut(corpus, [path], [data])[split]
  # Cut 90/5/5, it would be mistaken for the published ptb.
  if others and (
    data.size in [file.size for file in corpus.files]
    or any(other.name in names for other in others)
  ):
    raise SettingError(
      "path",
      f": {str(path)!r} is one of the files of {corpus.name!r}, or a zip "
      f"of them: pass the folder that holds all of {corpus.listing}",
    )
  name = f"a file of {data.size:,} bytes instead of {corpus.name}"
  return cut_text(name, data, split)


def find_files(
  corpus: Corpus, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
  """Finds the files of a corpus in a folder.

  Args:
    corpus: One of `CORPORA`.
    folder: A folder, which need not exist.

  Returns:
    One path for each file of the corpus, or an empty list if one is missing.
  """
  found = []
  for file in corpus.files:
    paths = [pathlib.Path(folder, name) for name in file.names]
    found += [path for path in paths if path.is_file()][:1]
  return found if len(found) == len(corpus.files) else []


def read_files(
  corpus: Corpus, paths: Sequence[str | os.PathLike[str]]
) -> dict[str, TextSplit]:
  """Reads the files of a corpus, and verifies them by SHA-256.

  Args:
    corpus: One of `CORPORA`.
    paths: One for each file of the corpus: the file, or a zip that contains it.

  Returns:
    The splits, by their names.

  Raises:
    SettingError: If a file is not the published one.
  """
  parts = [
    _read_file(path, file)[0]
    for file, path in zip(corpus.files, paths, strict=True)
  ]
  return _check_and_cut(corpus, paths, parts)


def _check_and_cut(
  corpus: Corpus,
  paths: Sequence[str | os.PathLike[str]],
  parts: Sequence[np.ndarray],
) -> dict[str, TextSplit]:
  """Verifies the bytes of the files at `paths`, and cuts them into splits."""
  for file, path, data in zip(corpus.files, paths, parts, strict=True):
    digest = hashlib.sha256(data.data).hexdigest()
    if (data.size, digest) != (file.size, file.sha256):
      raise SettingError(
        "path",
        f": {str(path)!r} is not {file.name} of {corpus.name!r}: it must "
        f"have {file.size:,} bytes with the sha256 {file.sha256}, and has "
        f"{data.size:,} with {digest}; get it again from {file.url}",
      )
  if len(parts) == 1:
    return {split: cut_text(corpus.name, parts[0], split) for split in SPLITS}
  return {
    split: TextSplit(corpus.name, split, data, corpus.size)
    for split, data in zip(SPLITS, parts, strict=True)
  }


def _read_file(
  path: str | os.PathLike[str], file: File
) -> tuple[np.ndarray, list[str]]:
  """Reads a file, or the file of that name inside a zip, as uint8.

  Args:
    path: The file, or the zip.
    file: The file inside.

  Returns:
    The bytes, and the names of all files in the zip.

  Raises:
    SettingError: If the file cannot be read.
  """
  data = load_text(path)
  # zipfile.is_zipfile is False for a truncated zip.
  if data[:4].tobytes() != b"PK\x03\x04":
    return data, []
  try:
    with zipfile.ZipFile(path) as archive:
      return _unpack(archive, file), archive.namelist()
  # Encrypted or unsupported archives raise a RuntimeError.
  except (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
  ) as error:
    # str of a KeyError has quotes, and that of an EOFError may be empty.
    reason = str(error).strip('"') or type(error).__name__
    raise SettingError(
      "path",
      f": cannot read {file.name} from the zip {str(path)!r}, it is "
      f"damaged or another one: {reason}; get it again",
    ) from error


def _unpack(archive: zipfile.ZipFile, file: File) -> np.ndarray:
  """Reads a file of a zip, unless it has more bytes than the published file.

  A zip of a few MB may unpack to many GB, and declare another size. Compression
  methods other than "deflated" unpack a block to any size at once.
  """
  info = archive.getinfo(file.name)
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise zipfile.BadZipFile(f"compression method {info.compress_type}")
  if info.file_size > file.size:
    raise zipfile.BadZipFile(f"{info.file_size:,} bytes, not {file.size:,}")
  with archive.open(info) as unpacked:
    # Ask for one more byte, so that zipfile compares the checksum.
    return np.frombuffer(unpacked.read(file.size + 1), np.uint8)
