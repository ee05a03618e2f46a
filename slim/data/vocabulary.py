"""Convert between text and tokens."""

import codecs
from collections.abc import Iterable
from typing import Protocol

import numpy as np


class Vocabulary(Protocol):
  """What the tokens of a dataset stand for."""

  @property
  def unit(self) -> str:
    """What a token is, as in "byte"."""

  def encode(self, text: bytes) -> np.ndarray:
    """Returns the tokens of a text, [T], int32.

    Raises:
      ValueError: If the text has no tokens. The message begins after the name
        of what was encoded.
    """

  def start(self) -> "Decoder":
    """Starts to decode a stream of tokens."""


class Decoder(Protocol):
  """Decodes a stream of tokens, a few at a time."""

  def decode(self, tokens: Iterable[int]) -> str:
    """Returns the text that is complete after these tokens, and new."""

  def finish(self) -> str:
    """Returns what is left at the end of the stream."""


class Bytes:
  """Tokens are the bytes of a text in UTF-8."""

  unit = "byte"

  def encode(self, text: bytes) -> np.ndarray:
    """Returns the bytes."""
    return np.frombuffer(text, np.uint8).astype(np.int32)

  def start(self) -> "_ByteDecoder":
    """Starts to decode; what is no UTF-8 becomes the character U+FFFD."""
    return _ByteDecoder()


class Numbers:
  """Tokens are written as numbers, with spaces or commas between."""

  unit = "token"

  def __init__(self, vocab_size: int):
    """Takes the number of different tokens."""
    self._vocab_size = vocab_size

  def encode(self, text: bytes) -> np.ndarray:
    """Reads numbers.

    Raises:
      ValueError: If there is something else, or a number is no token.
    """
    words = text.decode(errors="replace").replace(",", " ").split()
    for word in words:
      if not word.isdecimal() or int(word) >= self._vocab_size:
        raise ValueError(
          f"must be numbers from 0 to {self._vocab_size - 1} with spaces or "
          f"commas between, got {word!r}"
        )
    return np.array(words, np.int32)

  def start(self) -> "_NumberDecoder":
    """Starts to write numbers."""
    return _NumberDecoder()


class _ByteDecoder:
  """Keeps the bytes of an incomplete character."""

  def __init__(self):
    self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

  def decode(self, tokens: Iterable[int]) -> str:
    """Decodes bytes; a token that is no byte becomes the byte 0xFF."""
    return self._decoder.decode(bytes(min(int(x), 255) for x in tokens))

  def finish(self) -> str:
    """Returns U+FFFD if a character is incomplete."""
    return self._decoder.decode(b"", final=True)


class _NumberDecoder:
  """Puts a space after each number."""

  def decode(self, tokens: Iterable[int]) -> str:
    """Writes numbers."""
    return "".join(f"{int(x)} " for x in tokens)

  def finish(self) -> str:
    """Returns nothing."""
    return ""
