"""The settings of the data."""

import dataclasses
from typing import Any

from slim.data.registry import DATASETS
from slim.data.text import ORDERS
from slim.settings import setting


@dataclasses.dataclass(frozen=True)
class DataSettings:
  """The settings `config.data`; the arguments of `create_dataset`."""

  name: str = setting(
    "copying",
    "Dataset: the tasks copying or recall, a published text (ptb, enwik8 or "
    "tiny_shakespeare), text, the bytes of any file, or tokens, an array of "
    "integers in a .npy or .npz file.",
    choices=tuple(DATASETS),
  )
  path: str | None = setting(
    None,
    "Location of the data. For text and tokens, the file. For a published "
    "text, its file, a zip or a folder; None: prepared or downloaded with "
    "tfds. None for tasks.",
    is_path=True,
  )
  sequence_length: int = setting(
    512, "T, tokens; even for copying, a multiple of 4 for recall."
  )
  vocab_size: int = setting(
    256, "Number of different tokens; at least 256 for texts."
  )
  tokenizer: str | None = setting(
    None,
    "For tokens: the tokenizer.json of Hugging Face that made them, with which "
    "slim.generate reads and writes text. None: numbers.",
    is_path=True,
  )
  order: str = setting(
    "random",
    "Training sequences of texts: random crops, or consecutive slices.",
    choices=ORDERS,
  )
  pack_documents: int | None = setting(
    None,
    "For texts: the token that ends a document, such as 10, a newline, for "
    "lines of bytes. No layer sees across documents, positions start anew in "
    "each, and its first token is no target. None: a text is one document.",
    minimum=0,
  )
  document_lengths: str | None = setting(
    None,
    "File of the lengths of documents in tokens, in the place of "
    "pack_documents: .npy for the whole text, or .npz with an array for each "
    "split.",
    is_path=True,
  )


def is_packed(settings: Any) -> bool:
  """Tells whether sequences may have several documents.

  Args:
    settings: `config.data`, or DataSettings.

  Returns:
    Whether batches have `positions`.
  """
  return (
    settings.pack_documents is not None or settings.document_lengths is not None
  )
