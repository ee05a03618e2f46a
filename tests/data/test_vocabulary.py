"""What tokens stand for, a few at a time."""

import numpy as np
import pytest

from slim.data import create_vocabulary


def test_characters_are_complete_before_they_are_printed():
  """Fails if half a character is printed, or lost at the end."""
  vocabulary = create_vocabulary("ptb", vocab_size=300)
  tokens = vocabulary.encode("aé€😀".encode())
  decoder = vocabulary.start()
  parts = [decoder.decode([token]) for token in tokens]
  assert parts == ["a", "", "é", "", "", "€", "", "", "", "😀"]
  assert decoder.finish() == ""
  assert decoder.decode(tokens[:2]) == "a"
  assert decoder.finish() == "\ufffd"
  assert vocabulary.start().decode([97, 299, 98]) == "a\ufffdb"


def test_numbers_are_read_and_written():
  """Fails if a token of a task is written as a byte."""
  vocabulary = create_vocabulary("copying", vocab_size=11)
  tokens = vocabulary.encode(b" 3, 10\n0 ")
  np.testing.assert_array_equal(tokens, [3, 10, 0])
  assert vocabulary.encode(b"").shape == (0,)
  assert vocabulary.start().decode(tokens) == "3 10 0 "
  for text in (b"11", b"-1", b"1.5", b"\xff", "²".encode()):
    with pytest.raises(ValueError, match="must be numbers from 0 to 10"):
      vocabulary.encode(text)
