"""Settings and assertions for tests that read files of the user."""

import pytest

from slim.data.corpora import CORPORA
from slim.data.dataset import SPLITS
from slim.data.reading import read_corpus

SETTINGS = dict(
  split="train",
  sequence_length=8,
  batch_size=2,
  seed=0,
  vocab_size=256,
  order="random",
)


def read(name, path):
  """Reads the bytes of all splits."""
  corpus = CORPORA[name]
  splits = [read_corpus(corpus, path, split) for split in SPLITS]
  assert [text.split for text in splits] == list(SPLITS)
  assert {text.name for text in splits} == {name}
  assert {text.size for text in splits} == {corpus.size}
  return [text.data.tobytes() for text in splits]


def assert_one_line(error, *words):
  """Asserts that an error is one line about the path, with these words."""
  message = str(error.value)
  assert message.startswith("path: ")
  assert all(word in message for word in words), message
  assert "\n" not in message


def make_tokenizer(path):
  """Writes a small tokenizer of bytes, as those of GPT-2; returns the path."""
  tokenizers = pytest.importorskip("tokenizers")
  byte_level = tokenizers.pre_tokenizers.ByteLevel()
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    show_progress=False,
    initial_alphabet=byte_level.alphabet(),
  )
  tokenizer.train_from_iterator(["the house of the mouse"] * 9, trainer)
  # Not of the text itself, so no prompt may have it.
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="[BOS] $A", special_tokens=[("[BOS]", 0)]
  )
  tokenizer.save(str(path))
  return path
