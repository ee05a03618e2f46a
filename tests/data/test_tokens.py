"""Files of tokens, mapped into memory."""

import re
import zipfile

import numpy as np
import pytest

from slim.data import create_dataset
from slim.settings import SettingError

TOKENS = np.random.default_rng(0).integers(0, 1000, 200)


def create(path, split="train", **settings):
  """Creates a split of short sequences."""
  defaults = dict(
    sequence_length=4,
    batch_size=2,
    seed=0,
    vocab_size=1000,
    order="consecutive",
  )
  return create_dataset(
    "tokens", split=split, path=str(path), **defaults | settings
  )


@pytest.mark.parametrize("dtype", ["uint16", "int32", ">i8", "uint64"])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_sequences_are_those_of_the_array(tmp_path, dtype, kind):
  """Fails if a header is read as tokens, or bytes are swapped."""
  path = tmp_path / f"tokens.{kind}"
  save = np.save if kind == "npy" else np.savez
  save(path, TOKENS.astype(dtype))
  batch = create(path).batch(1)
  np.testing.assert_array_equal(batch.inputs, TOKENS[8:16].reshape(2, 4))
  np.testing.assert_array_equal(batch.targets, TOKENS[9:17].reshape(2, 4))
  assert batch.inputs.dtype == np.int32
  test = create(path, "test")
  found = [x.inputs.ravel() for x in test.evaluation_batches()]
  np.testing.assert_array_equal(np.concatenate(found)[:9], TOKENS[190:199])
  assert test.description.startswith("tokens, test: 10 of 200 tokens, ")
  renamed = path.rename(tmp_path / f"renamed.{kind}")
  assert create(renamed, "test").fingerprint == test.fingerprint


def test_an_archive_may_have_the_splits(tmp_path):
  """Fails if a split is another one, or cut again."""
  path = tmp_path / "tokens.npz"
  splits = "train", "validation", "test"
  parts = {x: TOKENS[50 * i :][:50] for i, x in enumerate(splits)}
  np.savez(path, **parts)
  for split, data in parts.items():
    batch = create(path, split).batch(0)
    np.testing.assert_array_equal(batch.inputs.ravel(), data[:8])
    assert "50 of 150 tokens" in create(path, split).description


def test_nothing_is_copied(tmp_path):
  """Fails if a file larger than the memory cannot be used."""
  np.savez(tmp_path / "tokens.npz", TOKENS)
  dataset = create(tmp_path / "tokens.npz")
  assert isinstance(dataset._data, np.memmap)
  first = dataset.fingerprint
  np.savez(tmp_path / "tokens.npz", TOKENS[::-1])
  assert create(tmp_path / "tokens.npz").fingerprint != first


def test_fingerprints_tell_the_order_of_bytes_apart(tmp_path):
  """Fails if a run continues with other tokens of the same bytes."""
  tokens = TOKENS.astype("<u2")
  found = []
  for name, array in (("a", tokens), ("b", tokens.view(">u2"))):
    np.save(tmp_path / f"{name}.npy", array)
    path = tmp_path / f"{name}.npy"
    found.append(create(path, vocab_size=2**16).fingerprint)
  assert found[0] != found[1]


def write(path, content):
  """Writes a file: bytes, an array, or arrays by name."""
  if isinstance(content, bytes):
    path.write_bytes(content)
  elif isinstance(content, dict):
    np.savez(path, **content)
  else:
    np.save(path, content, allow_pickle=True)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("x.npy", b"", "cannot read .*x.npy"),
    ("x.npy", b"PK\x03\x04", "cannot read .*x.npy"),
    ("x.npz", b"PK\x03\x04", "cannot read .*not a zip file"),
    ("x.npz", b"\x93NUMPY", "cannot read .*not a zip file"),
    ("x.npy", np.array([1, None]), "cannot read .*x.npy"),
    ("x.npz", {"a": np.array([1, None])}, "a holds Python objects"),
    ("x.npy", TOKENS / 2, r"must hold integers .* has float64\[200\]"),
    ("x.npy", TOKENS > 2, r"must hold integers .* has bool\[200\]"),
    ("x.npy", TOKENS.reshape(2, 100), r"along one axis, has int64\[2, 100\]"),
    ("x.npy", np.arange(-1, 99), "vocab_size must be above .* tokens from -1 "),
    ("x.npy", np.arange(1000, 900, -1), "vocab_size must be .* to 1000, got"),
    ("x.npy", TOKENS[:3], "sequence_length: 4 needs 5 tokens in a split"),
    ("x.npy", TOKENS[:0], "sequence_length: 4 needs 5 tokens in a split"),
    ("x.npz", {}, "must have one array, or train, .* has none"),
    ("x.npz", {"train": TOKENS, "test": TOKENS}, "has train, test"),
  ],
)
def test_other_files_are_refused(tmp_path, name, content, message):
  """Fails if a file that is no array of tokens is trained on."""
  write(tmp_path / name, content)
  with pytest.raises(SettingError, match=message) as error:
    create(tmp_path / name)
  assert "\n" not in str(error.value)


def test_a_compressed_archive_is_refused(tmp_path):
  """Fails if a small file can fill the memory, or is read as tokens."""
  np.savez_compressed(tmp_path / "x.npz", np.zeros(10**6, np.int32))
  with pytest.raises(SettingError, match="numpy.savez, not savez_compressed"):
    create(tmp_path / "x.npz")


def test_a_damaged_archive_is_refused(tmp_path):
  """Fails if a header that promises more than there is ends in a traceback."""
  np.save(tmp_path / "x.npy", TOKENS)
  data = (tmp_path / "x.npy").read_bytes().replace(b"(200,)", b"(9e9,)")
  more = (tmp_path / "x.npy").read_bytes().replace(b"(200,)", b"(999,)")
  for content in (data, more, data[:60], data[:9]):
    (tmp_path / "x.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
      archive.writestr("a.npy", content)
    for name in ("x.npy", "x.npz"):
      with pytest.raises(SettingError, match=f"cannot read .*{name}"):
        create(tmp_path / name)


def test_a_file_is_needed(tmp_path):
  """Fails if the message does not say which."""
  with pytest.raises(SettingError, match="needs a .npy or .npz file"):
    create_dataset(
      "tokens",
      split="train",
      sequence_length=4,
      batch_size=1,
      seed=0,
      vocab_size=9,
      path=None,
      order="random",
    )
  with pytest.raises(SettingError, match=re.escape("cannot read 'none.npy'")):
    create("none.npy")
  with pytest.raises(SettingError, match="must be None for name='copying'"):
    create_dataset(
      "copying",
      split="train",
      sequence_length=4,
      batch_size=1,
      seed=0,
      vocab_size=9,
      path=None,
      order="random",
      tokenizer="x.json",
    )
