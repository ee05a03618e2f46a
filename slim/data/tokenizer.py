"""A vocabulary of the `tokenizers` library of Hugging Face, an extra."""

import importlib.util
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from slim.data.vocabulary import Decoder
from slim.files import first_line, local_path
from slim.settings import SettingError

_INCOMPLETE = "\ufffd"  # What half a character is decoded to.


class Tokenizer:
  """Tokens are those of a tokenizer.json.

  Attributes:
    size: The largest token + 1.
  """

  unit = "token"

  def __init__(self, path: str | os.PathLike[str], vocab_size: int):
    """Reads the file.

    Args:
      path: The file.
      vocab_size: Tokens that the model knows.

    Raises:
      SettingError: If the library is missing, the file cannot be read, or it
        has larger tokens.
    """
    path = local_path("tokenizer", path)
    try:
      import tokenizers
    except ImportError as error:
      raise SettingError(
        "tokenizer",
        "needs the package tokenizers: `pip install tokenizers`, or set it to "
        "None for numbers",
      ) from error
    try:
      self._tokenizer = tokenizers.Tokenizer.from_file(path)
      # The file may say how inputs of another model were cut or padded.
      self._tokenizer.no_truncation()
      self._tokenizer.no_padding()
    # The library raises a bare Exception.
    except Exception as error:
      raise SettingError(
        "tokenizer",
        f": cannot read {path!r}: {first_line(error)}; pass a tokenizer.json",
      ) from error
    # Not the number of tokens, as there may be none for some numbers.
    vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
    self.size = 1 + max(vocabulary.values(), default=-1)
    if self.size > vocab_size:
      raise SettingError(
        "vocab_size",
        f"must be at least {self.size}, above all tokens of {path!r}, got "
        f"{vocab_size}",
      )

  def encode(self, text: bytes) -> np.ndarray:
    """Returns the tokens of a text in UTF-8; raises ValueError for others."""
    try:
      decoded = text.decode()
    except UnicodeDecodeError as error:
      raise ValueError(
        f"must be a text in UTF-8, its byte {error.start} is not: convert it"
      ) from error
    found = self._tokenizer.encode(
      decoded,
      add_special_tokens=False,  # A prompt must not end with its last token.
    )
    return np.array(found.ids, np.int32)

  def start(self) -> Decoder:
    """Starts to decode."""
    return _TokenDecoder(self._tokenizer)


def check_tokenizer(
  path: str | os.PathLike[str] | None, vocab_size: int
) -> None:
  """Checks a tokenizer that is not used before text is generated.

  Where its library is missing, as it may be where a model is trained, nothing
  is checked.

  Args:
    path: The file, or None.
    vocab_size: Tokens that the model knows.

  Raises:
    SettingError: If the file cannot be read, or it has larger tokens.
  """
  if path is not None and importlib.util.find_spec("tokenizers"):
    Tokenizer(path, vocab_size)


class _TokenDecoder:
  """Decodes tokens together with the few before them.

  Whether a token begins with a space, and what character it ends, depends on
  those before it.
  """

  def __init__(self, tokenizer: Any):
    self._tokenizer = tokenizer
    self._before: list[int] = []  # Printed already, to decode the next ones.
    self._new: list[int] = []

  def decode(self, tokens: Iterable[int]) -> str:
    """Returns what is new, unless it ends in half a character."""
    self._new += map(int, tokens)
    text = self._text()
    if text.endswith(_INCOMPLETE):
      return ""
    self._before, self._new = self._new, []
    return text

  def finish(self) -> str:
    """Returns the rest."""
    text = self._text()
    self._before, self._new = self._new, []
    return text

  def _text(self):
    before = self._tokenizer.decode(self._before)
    return self._tokenizer.decode(self._before + self._new)[len(before) :]
