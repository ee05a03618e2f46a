"""What tokens stand for, a few at a time."""

import sys

import numpy as np
import pytest

from slim.data import check_tokenizer, create_vocabulary
from tests.data.files import make_tokenizer


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


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
  """A small tokenizer."""
  folder = tmp_path_factory.mktemp("tokenizer")
  return make_tokenizer(folder / "tokenizer.json")


def test_text_of_a_tokenizer_is_complete_before_it_is_printed(tokenizer_file):
  """Fails if spaces or characters between two tokens are lost."""
  vocabulary = create_vocabulary(
    "tokens", vocab_size=300, tokenizer=tokenizer_file
  )
  text = " the house € of 😀 the mouse"
  tokens = vocabulary.encode(text.encode())
  decoder = vocabulary.start()
  parts = [decoder.decode([token]) for token in tokens]
  assert "".join(parts) + decoder.finish() == text
  assert " the" in parts and "\ufffd" not in "".join(parts)
  euro = vocabulary.encode("€".encode())
  assert decoder.decode(euro[:-1]) == ""
  assert decoder.finish().endswith("\ufffd")


def test_a_wrong_tokenizer_is_refused(tokenizer_file, tmp_path, monkeypatch):
  """Fails if a file or a size that does not fit ends in a traceback."""
  check_tokenizer(None, 9)
  too_small = pytest.raises(ValueError, match="vocab_size must be at least ")
  with too_small:
    create_vocabulary("tokens", vocab_size=9, tokenizer=tokenizer_file)
  with too_small:
    check_tokenizer(tokenizer_file, 9)
  (tmp_path / "x.json").write_text("{}")
  for path in (tmp_path / "x.json", tmp_path / "none"):
    with pytest.raises(ValueError, match="tokenizer: cannot read") as error:
      create_vocabulary("tokens", vocab_size=9, tokenizer=path)
    assert "\n" not in str(error.value)
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(ValueError, match="needs the package tokenizers"):
    create_vocabulary("tokens", vocab_size=9, tokenizer=tokenizer_file)
  check_tokenizer(tokenizer_file, 9)  # A machine may only train.


def test_a_tokenizer_may_leave_numbers_out(tmp_path):
  """Fails if a token that the model does not know passes."""
  tokenizers = pytest.importorskip("tokenizers")
  model = tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 7}, unk_token="a")
  path = tmp_path / "tokenizer.json"
  tokenizers.Tokenizer(model).save(str(path))
  with pytest.raises(ValueError, match="vocab_size must be at least 8, above"):
    create_vocabulary("tokens", vocab_size=3, tokenizer=path)
  assert create_vocabulary("tokens", vocab_size=8, tokenizer=path).size == 8


def test_a_tokenizer_neither_cuts_nor_pads(tokenizer_file, tmp_path):
  """Fails if a file made for another model loses most of a text."""
  import tokenizers

  text = b" the house of the mouse"
  changed = tokenizers.Tokenizer.from_file(str(tokenizer_file))
  changed.enable_truncation(2)
  changed.enable_padding(length=99)
  changed.save(str(tmp_path / "cut.json"))
  right, found = (
    create_vocabulary("tokens", vocab_size=300, tokenizer=path).encode(text)
    for path in (tokenizer_file, tmp_path / "cut.json")
  )
  np.testing.assert_array_equal(found, right)
