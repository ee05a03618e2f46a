"""Texts of several documents, which sequences keep apart."""

import re

import numpy as np
import pytest

from slim.data import SPLITS, create_dataset
from slim.data.documents import Documents
from slim.settings import SettingError
from tests.data.files import SETTINGS

# 90, 5 and 5 of 100 lines of two to four bytes; the split cuts some of them.
LINES = [b"ab\n", b"c\n", b"def\n"] * 33 + [b"x\n"]
TEXT = b"".join(LINES)


SHAPE = SETTINGS | {"sequence_length": 6, "order": "consecutive"}


def create(path, name="text", split="train", **settings):
  """Creates a split of short sequences."""
  settings = SHAPE | {"split": split, "path": str(path)} | settings
  return create_dataset(name, **settings)


def positions_in(part):
  """Counts the bytes from the start of their line."""
  found = []
  for i in range(len(part)):
    starts = part.rfind(b"\n", 0, i) + 1
    found.append(i - starts)
  return np.array(found)


def test_positions_are_never_negative():
  """Fails if a token far into a document seems to come before it."""
  documents = Documents(np.array([0]), "")
  found = documents.positions(np.array([7, 2**31 + 5, 2**32]))
  assert found.dtype == np.int32
  assert found.tolist() == [7, 2**31 - 1, 2**31 - 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The text, its tokens by split, and the lengths of its lines in both."""
  folder = tmp_path_factory.mktemp("documents")
  (folder / "text").write_bytes(TEXT)
  np.save(folder / "lengths.npy", [len(line) for line in LINES])
  bounds = np.array([0, 90, 95, 100]) * len(TEXT) // 100
  parts = [TEXT[i:j] for i, j in zip(bounds, bounds[1:], strict=False)]
  tokens = {
    split: np.frombuffer(part, np.uint8)
    for split, part in zip(SPLITS, parts, strict=True)
  }
  np.savez(folder / "tokens.npz", **tokens)
  lengths = {
    split: [len(line) for line in part.splitlines(keepends=True)]
    for split, part in zip(SPLITS, parts, strict=True)
  }
  np.savez(folder / "lengths.npz", **lengths)
  return folder


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
  ("name", "lengths"),
  [("text", None), ("text", "lengths.npy"), ("tokens", "lengths.npz")],
)
def test_documents_are_lines(folder, split, name, lengths):
  """Fails if positions or weights are not those of the lines of a split."""
  how = {"pack_documents": 10}
  if lengths is not None:
    how = {"document_lengths": folder / lengths}
  path = folder / ("text" if name == "text" else "tokens.npz")
  dataset = create(path, name, split, **how)
  percent = slice(0, 90) if split == "train" else slice(90, 95)
  start, stop = (len(TEXT) * x // 100 for x in (percent.start, percent.stop))
  part = TEXT[start:stop]
  right = positions_in(part)
  batches = list(dataset.evaluation_batches())
  positions, weights, inputs = (
    np.concatenate([getattr(x, name).ravel() for x in batches])
    for name in ("positions", "weights", "inputs")
  )
  count = len(part) - 1
  assert bytes(inputs[:count].astype(np.uint8)) == part[:-1]
  np.testing.assert_array_equal(positions[:count], right[:-1])
  np.testing.assert_array_equal(weights[:count], right[1:] != 0)
  assert not weights[count:].any() and weights.dtype == np.float32
  assert positions.dtype == np.int32
  if split == "train":
    batch = dataset.batch(1)
    np.testing.assert_array_equal(batch.positions, right[12:24].reshape(2, 6))
    np.testing.assert_array_equal(
      batch.weights, right[13:25].reshape(2, 6) != 0
    )


def test_fingerprints_know_documents(folder):
  """Fails if a run resumes with other documents."""
  how = [
    {},
    {"pack_documents": 10},
    {"pack_documents": 99},
    {"document_lengths": folder / "lengths.npy"},
    {"document_lengths": folder / "others.npy"},
  ]
  np.save(folder / "others.npy", [len(line) for line in LINES[::-1]])
  found = {create(folder / "text", **x).fingerprint for x in how}
  assert len(found) == len(how)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      {"pack_documents": 7},
      "pack_documents must be a token that ends documents",
    ),
    (
      {"pack_documents": 10, "document_lengths": "lengths.npy"},
      "document_lengths must be None with pack_documents=10",
    ),
    ({"document_lengths": "short.npy"}, "must hold lengths above 0 whose sum"),
    ({"document_lengths": "empty.npy"}, "has 0 with a sum of 0"),
    ({"document_lengths": "none.npy"}, "document_lengths: cannot read"),
    ({"document_lengths": "text"}, "document_lengths: cannot read"),
    ({"document_lengths": "ones.npy"}, "must make documents of two tokens or"),
    (
      {"name": "copying", "path": None, "pack_documents": 1},
      "pack_documents must be None for 'copying', which is no text",
    ),
    (
      {
        "name": "tokens",
        "path": "thirds.npz",
        "document_lengths": "lengths.npy",
      },
      "must have arrays train, validation and test, like the text",
    ),
  ],
)
def test_documents_that_do_not_fit_are_refused(folder, settings, message):
  """Fails if a wrong file or separator packs something else."""
  np.save(folder / "short.npy", [3, 4])
  np.save(folder / "ones.npy", np.ones(len(TEXT), int))
  np.save(folder / "empty.npy", np.zeros(0, int))
  thirds = np.array_split(np.frombuffer(TEXT, np.uint8), 3)
  np.savez(folder / "thirds.npz", **dict(zip(SPLITS, thirds, strict=True)))
  settings = {"name": "text", "path": "text"} | settings
  for name in ("path", "document_lengths"):
    if settings.get(name) is not None:
      settings[name] = str(folder / settings[name])
  with pytest.raises(SettingError, match=re.escape(message)) as error:
    create_dataset(**SHAPE | settings)
  assert "\n" not in str(error.value)


def test_a_short_split_may_be_one_document(tmp_path):
  """Fails if validation is refused as it lies within a document."""
  (tmp_path / "text").write_bytes(b"a line\n" * 10 + b"x" * 30)
  dataset = create(
    tmp_path / "text", split="validation", sequence_length=2, pack_documents=10
  )
  batch = next(dataset.evaluation_batches())
  np.testing.assert_array_equal(batch.positions, [[0, 1], [2, 3]])


def test_an_empty_split_may_be_packed(tmp_path):
  """Fails if a file without a test split is refused for its documents."""
  parts = {"train": np.arange(20) % 5, "validation": np.arange(20) % 5}
  np.savez(tmp_path / "a.npz", **parts, test=np.zeros(0, int))
  with pytest.raises(ValueError, match="sequence_length: 6 needs 7 tokens"):
    create(tmp_path / "a.npz", "tokens", "test", pack_documents=0)
