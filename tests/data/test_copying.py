"""The Copying task."""

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.data import Copying
from slim.data.dataset import SPLITS


def create(**settings):
  """Creates a small Copying dataset with some settings changed."""
  defaults = dict(
    split="train", sequence_length=16, batch_size=3, seed=0, vocab_size=64
  )
  return Copying(**defaults | settings)


@given(
  half=st.integers(2, 40),
  batch_size=st.integers(1, 4),
  vocab_size=st.integers(2, 300),
  seed=st.integers(0, 2**128 - 1),
  step=st.integers(0, 2**40),
  split=st.sampled_from(SPLITS),
)
def test_sequences_are_as_defined(
  half, batch_size, vocab_size, seed, step, split
):
  """Fails if the task is not `0 w 0 w`, scored on the second w."""
  copying = create(
    split=split,
    sequence_length=2 * half,
    batch_size=batch_size,
    seed=seed,
    vocab_size=vocab_size,
  )
  inputs, targets, weights, _ = copying.batch(step)
  assert inputs.shape == targets.shape == weights.shape
  assert inputs.shape == (batch_size, 2 * half)
  assert inputs.dtype == targets.dtype == np.int32
  assert weights.dtype == np.float32
  for row in range(batch_size):
    word = list(inputs[row, 1:half])
    assert all(1 <= token < vocab_size for token in word)
    assert list(inputs[row]) == [0, *word, 0, *word]
    assert list(targets[row]) == [*word, 0, *word, 0]
    scored = [half <= t <= 2 * half - 2 for t in range(2 * half)]
    assert list(weights[row]) == scored


def test_words_are_uniform():
  """Fails if some tokens are more likely, or the last is never drawn."""
  words = create(batch_size=1000, vocab_size=5).batch(0).inputs[:, 1:8]
  counts = np.bincount(words.ravel(), minlength=5)
  # 7000 draws of 1 in 4: six standard deviations are 217.
  assert counts[0] == 0
  np.testing.assert_allclose(counts[1:], 1750, atol=217)


def test_batch_is_a_function_of_the_step():
  """Fails if a resumed run sees other sequences."""
  copying = create()
  forward = [copying.batch(step) for step in range(4)]
  backward = [create().batch(step) for step in reversed(range(4))][::-1]
  chex.assert_trees_all_equal(forward, backward)


def test_first_tokens_stay_what_they_are():
  """Fails if another NumPy or seeding changes all published runs."""
  word = create(seed=1).batch(2).inputs[0, 1:8]
  np.testing.assert_array_equal(word, [29, 48, 48, 61, 4, 49, 56])


@pytest.mark.parametrize(
  "other", [{"seed": 1}, {"split": "validation"}, {"split": "test"}]
)
def test_seeds_and_splits_differ(other):
  """Fails if validation uses training sequences."""
  assert np.any(create().batch(0).inputs != create(**other).batch(0).inputs)


def test_steps_and_rows_differ():
  """Fails if training sees one sequence again and again."""
  rows = [tuple(row) for step in range(50) for row in create().batch(step)[0]]
  assert len(set(rows)) == 150


def test_evaluation_is_fixed_and_finite():
  """Fails if two evaluations of one model disagree."""
  copying = create(split="validation")
  batches = list(copying.evaluation_batches())
  assert len(batches) == 16
  chex.assert_trees_all_equal(batches, list(copying.evaluation_batches()))
  assert len({batch.inputs.tobytes() for batch in batches}) == 16


def test_fingerprint_tells_settings_apart():
  """Fails if a run can be resumed on another task."""
  changes = [
    {},
    {"seed": 1},
    {"split": "test"},
    {"sequence_length": 18},
    {"batch_size": 4},
    {"vocab_size": 65},
  ]
  fingerprints = {create(**change).fingerprint for change in changes}
  assert len(fingerprints) == len(changes)
  assert create().fingerprint == create().fingerprint
  assert "vocab_size=64" in create().description


@pytest.mark.parametrize("length", [-2, 0, 2, 7])
def test_a_length_without_two_words_is_refused(length):
  """Fails if no token is scored, or the copies differ in length."""
  with pytest.raises(ValueError, match=r"^sequence_length .* even .*4.* got "):
    create(sequence_length=length)


def test_a_vocabulary_without_words_is_refused():
  """Fails if NumPy's error about `low` and `high` reaches the user."""
  with pytest.raises(ValueError, match=r"^vocab_size must be at least 2, got"):
    create(vocab_size=1)
