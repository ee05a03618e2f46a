"""Random streams, and datasets created by name."""

import itertools

import chex
import numpy as np
import pytest

from slim.data import Copying, Text, create_dataset, dataset
from slim.data.splits import cut_text

SETTINGS = dict(
  split="train",
  sequence_length=8,
  batch_size=2,
  seed=0,
  vocab_size=256,
  path=None,
  order="consecutive",
)


def test_a_stream_is_its_own():
  """Fails if two splits, seeds or steps draw the same sequences."""
  streams = [
    tuple(dataset.create_generator(seed, split, step).integers(2**62, size=4))
    for seed, split, step in itertools.product(
      [0, 1, 2**64], dataset.SPLITS, [0, 1, 2, 2**40]
    )
  ]
  assert len(set(streams)) == len(streams) == 36


def test_train_stream_is_philox_by_definition():
  """Fails if a saved run resumes on another stream."""
  expected = np.random.Generator(np.random.Philox(key=7, counter=[0, 0, 0, 9]))
  actual = dataset.create_generator(7, "train", 9)
  np.testing.assert_array_equal(actual.bytes(99), expected.bytes(99))


@pytest.mark.parametrize("kind", [Copying, Text])
def test_a_name_gives_its_dataset(kind, tmp_path):
  """Fails if a name gives another dataset."""
  name = kind.__name__.lower()
  path = tmp_path / "input.txt"
  path.write_bytes(bytes(200))
  settings = SETTINGS | dict(path=path if name == "text" else None)
  assert isinstance(create_dataset(name, **settings), kind)


def test_settings_reach_copying():
  """Fails if settings of the command line are lost on the way."""
  created = create_dataset("copying", **SETTINGS | dict(vocab_size=9, seed=3))
  direct = Copying(
    split="train", sequence_length=8, batch_size=2, seed=3, vocab_size=9
  )
  assert created.fingerprint == direct.fingerprint


def test_settings_reach_text(tmp_path):
  """Fails if settings of the command line are lost on the way."""
  data = np.arange(200, dtype=np.uint8)
  data.tofile(tmp_path / "bytes")
  settings = SETTINGS | dict(
    path=tmp_path / "bytes", order="random", seed=5, split="validation"
  )
  direct = Text(
    cut_text("text", data, "validation"),
    sequence_length=8,
    batch_size=2,
    seed=5,
    order="random",
  )
  created = create_dataset("text", **settings)
  assert created.fingerprint == direct.fingerprint
  chex.assert_trees_all_equal(created.batch(1), direct.batch(1))


@pytest.mark.parametrize(
  "name, settings, words",
  [
    (
      "txt",
      {},
      [
        "name",
        "'copying', 'recall', 'text', 'tokens', 'ptb', 'enwik8'",
        "'txt'",
      ],
    ),
    ("text", {}, ["path", "None", "pass the path of a file"]),
    ("copying", {"path": "a.txt"}, ["path", "'a.txt'", "'text'"]),
    ("text", {"vocab_size": 255}, ["vocab_size", "256", "255"]),
    ("enwik8", {"vocab_size": 255}, ["vocab_size", "256", "255"]),
    ("enwik8", {"split": "valid"}, ["split", "'validation'", "'valid'"]),
    ("text", {"order": "sorted"}, ["order", "'random', 'consecutive'"]),
    ("text", {"batch_size": 0}, ["batch_size", "1", "0"]),
    ("text", {"sequence_length": 0}, ["sequence_length", "1", "0"]),
    ("text", {"seed": -1}, ["seed", "0", "-1"]),
    ("text", {"split": "valid"}, ["split", "'validation'", "'valid'"]),
    ("copying", {"order": "sorted"}, ["order", "'random', 'consecutive'"]),
    ("copying", {"split": "valid"}, ["split", "'validation'", "'valid'"]),
    ("copying", {"batch_size": 0}, ["batch_size", "1", "0"]),
    ("copying", {"seed": -1}, ["seed", "0", "-1"]),
  ],
)
def test_a_bad_setting_gets_one_line(name, settings, words, tmp_path):
  """Fails if a mistake ends in a traceback, or is not noticed."""
  path = tmp_path / "input.txt"
  path.write_bytes(bytes(200))
  if name == "text" and settings:
    settings = {"path": path} | settings
  with pytest.raises(ValueError) as error:
    create_dataset(name, **SETTINGS | settings)
  message = str(error.value)
  assert message.startswith(words[0])
  assert all(word in message for word in words), message
  assert "\n" not in message
