"""Texts of bytes."""

import hashlib

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.data import Text
from slim.data.splits import cut_text, load_text

LENGTHS = dict(
  size=st.integers(60, 900),
  sequence_length=st.integers(1, 20),
  batch_size=st.integers(1, 5),
)


def random_bytes(size):
  """Returns the same random bytes for the same size."""
  return np.random.Generator(np.random.Philox(size)).integers(
    256, size=size, dtype=np.uint8
  )


def create(data=None, split="train", **settings):
  """Creates a small text with some settings changed."""
  defaults = dict(sequence_length=8, batch_size=3, seed=0, order="random")
  data = random_bytes(500) if data is None else data
  return Text(cut_text("text", data, split), **defaults | settings)


@given(step=st.integers(0, 1000), **LENGTHS)
def test_consecutive_is_as_defined(step, size, sequence_length, batch_size):
  """Fails if sequences skip, overlap, or do not wrap around."""
  text = create(
    random_bytes(size),
    sequence_length=sequence_length,
    batch_size=batch_size,
    order="consecutive",
  )
  part = random_bytes(size)[: size * 90 // 100]
  batch = text.batch(step)
  for row in range(batch_size):
    number = step * batch_size + row
    start = number % ((part.size - 1) // sequence_length) * sequence_length
    stop = start + sequence_length
    np.testing.assert_array_equal(batch.inputs[row], part[start:stop])
    np.testing.assert_array_equal(
      batch.targets[row], part[start + 1 : stop + 1]
    )


def test_consecutive_wraps_at_the_end():
  """Fails if the run ends, or reads past the text."""
  # Of 30 bytes 27 are for training: 6 sequences of 4, and 2 bytes left over.
  text = create(
    np.arange(30, dtype=np.uint8),
    sequence_length=4,
    batch_size=4,
    order="consecutive",
  )
  starts = [list(text.batch(step).inputs[:, 0]) for step in range(3)]
  assert starts == [[0, 4, 8, 12], [16, 20, 0, 4], [8, 12, 16, 20]]


def test_random_is_as_defined():
  """Fails if a saved run resumes on other sequences."""
  part = random_bytes(500)[:450]
  generator = np.random.Generator(np.random.Philox(key=5, counter=[0, 0, 0, 7]))
  starts = generator.integers(0, 450 - 8, 3)
  batch = create(seed=5).batch(7)
  for row, start in enumerate(starts):
    np.testing.assert_array_equal(batch.inputs[row], part[start : start + 8])
    np.testing.assert_array_equal(
      batch.targets[row], part[start + 1 : start + 9]
    )


def test_random_reaches_every_start():
  """Fails if the first or the last bytes are never trained on."""
  text = create(np.arange(40, dtype=np.uint8), batch_size=2000)
  inputs, targets, *_ = text.batch(0)
  assert set(inputs[:, 0]) == set(range(36 - 8))
  assert targets.max() == 35


@pytest.mark.parametrize("order", ["random", "consecutive"])
def test_batch_is_a_function_of_the_step(order):
  """Fails if a resumed run sees other sequences."""
  text = create(order=order)
  forward = [text.batch(step) for step in range(4)]
  backward = [create(order=order).batch(step) for step in (3, 2, 1, 0)][::-1]
  chex.assert_trees_all_equal(forward, backward)


@pytest.mark.parametrize("order", ["random", "consecutive"])
def test_steps_and_splits_differ(order):
  """Fails if training repeats itself, or sees the validation text."""
  first = create(order=order).batch(0).inputs
  assert np.any(first != create(order=order).batch(1).inputs)
  other = create(order=order, split="validation").batch(0).inputs
  assert np.any(first != other)


def test_seeds_differ():
  """Fails if every seed is the same run."""
  assert np.any(create().batch(0).inputs != create(seed=1).batch(0).inputs)


@pytest.mark.parametrize("order", ["random", "consecutive"])
def test_shapes_types_and_weights(order):
  """Fails if a training step compiles again, or loses tokens."""
  text = create(order=order)
  for batch in [text.batch(0), *text.evaluation_batches()]:
    assert [array.shape for array in batch[:3]] == [(3, 8)] * 3
    assert [array.dtype for array in batch[:3]] == [
      np.int32,
      np.int32,
      np.float32,
    ]
  assert np.all(text.batch(0).weights == 1)


@given(**LENGTHS)
def test_evaluation_predicts_every_byte_once(size, sequence_length, batch_size):
  """Fails if the bits per character are not those of the split."""
  text = create(
    random_bytes(size), sequence_length=sequence_length, batch_size=batch_size
  )
  part = random_bytes(size)[: size * 90 // 100]
  batches = list(text.evaluation_batches())
  assert {batch.inputs.shape for batch in batches} == {
    (batch_size, sequence_length)
  }
  assert len(batches) == -(-(part.size - 1) // (batch_size * sequence_length))
  inputs, targets, weights = (
    np.concatenate([array.ravel() for array in arrays])
    for arrays in zip(*(x[:3] for x in batches), strict=True)
  )
  assert set(weights[: part.size - 1]) == {1}
  np.testing.assert_array_equal(inputs[weights == 1], part[:-1])
  np.testing.assert_array_equal(targets[weights == 1], part[1:])
  padding = weights[part.size - 1 :], inputs[part.size - 1 :]
  assert not np.any(padding)


def test_fingerprint_tells_settings_and_files_apart():
  """Fails if a run can be resumed on another text."""
  changed = random_bytes(500)
  changed[449] ^= 1
  changes = [
    {},
    {"data": changed},
    {"seed": 1},
    {"split": "test"},
    {"sequence_length": 9},
    {"batch_size": 4},
    {"order": "consecutive"},
  ]
  fingerprints = {create(**change).fingerprint for change in changes}
  assert len(fingerprints) == len(changes)
  assert create().fingerprint == create().fingerprint


def test_fingerprint_is_as_defined():
  """Fails if runs of an earlier version cannot be continued."""
  description = (
    "text, train: 450 of 500 bytes, random order, sequence_length=8, "
    "batch_size=3, seed=0"
  )
  assert create().name == "text"
  assert create().description == description
  digest = hashlib.sha256(description.encode() + random_bytes(500)[:450].data)
  assert create().fingerprint == digest.hexdigest()


def test_a_file_may_change_while_it_is_in_use(tmp_path):
  """Fails if an edit of the file changes a run between two steps."""
  path = tmp_path / "input.txt"
  random_bytes(500).tofile(path)
  text = create(load_text(path))
  before = text.batch(0)
  with open(path, "r+b") as file:
    file.write(bytes(500))
  chex.assert_trees_all_equal(text.batch(0), before)


@pytest.mark.parametrize("split, size", [("train", 450), ("validation", 25)])
def test_a_split_shorter_than_a_sequence_is_refused(split, size):
  """Fails if there is no sequence to draw, and NumPy says so."""
  create(split=split, sequence_length=size - 1).batch(0)
  message = (
    f"sequence_length: {size} needs {size + 1} bytes in a split, but {split} "
    f"has {size} of the text's 500; lower sequence_length or use a longer text"
  )
  with pytest.raises(ValueError) as error:
    create(split=split, sequence_length=size)
  assert str(error.value) == message
