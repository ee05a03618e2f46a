"""The task of associative recall."""

import numpy as np
import pytest

from slim.data import AssociativeRecall
from slim.settings import SettingError


def create(**settings):
  """Creates a small task with some settings changed."""
  defaults = dict(
    split="train", sequence_length=16, batch_size=3, seed=0, vocab_size=12
  )
  return AssociativeRecall(**defaults | settings)


@pytest.mark.parametrize(
  ("length", "vocab_size"), [(16, 12), (4, 2), (8, 4), (20, 11)]
)
def test_each_key_asks_for_its_value(length, vocab_size):
  """Fails if a value cannot be known, or something else is scored."""
  task = create(sequence_length=length, vocab_size=vocab_size)
  inputs, targets, weights, _ = task.batch(7)
  assert inputs.dtype == targets.dtype == np.int32
  assert weights.dtype == np.float32
  np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
  half, num_keys = length // 2, vocab_size // 2
  for row in range(3):
    pairs = inputs[row].reshape(-1, 2)
    first, second = (dict(x.tolist()) for x in np.split(pairs, 2))
    assert first == second
    assert len(first) == length // 4
    assert all(0 <= key < num_keys for key in first)
    assert all(num_keys <= value < vocab_size for value in first.values())
    scored = np.flatnonzero(weights[row])
    assert list(scored) == list(range(half, length, 2))
    for t in scored:
      assert targets[row, t] == first[inputs[row, t]]


def test_batches_are_functions_of_the_step():
  """Fails if a resumed run sees other sequences, or all are the same."""
  first, again, other = (create().batch(step).inputs for step in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()
  assert (first[0] != first[1]).any()
  assert (first[:, :8] != first[:, 8:]).any()
  np.testing.assert_array_equal(
    create().batch(0, slice(1, 2)).inputs, first[1:2]
  )


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"sequence_length": 10}, "sequence_length must be a multiple of 4"),
    ({"vocab_size": 7}, "vocab_size must be at least 8 for 'recall'"),
  ],
)
def test_sizes_that_do_not_fit_are_named(settings, message):
  """Fails if keys repeat, or pairs are cut."""
  with pytest.raises(SettingError, match=message):
    create(**settings)
