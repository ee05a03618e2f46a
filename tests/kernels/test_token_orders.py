"""Orders of tokens give each device what the kernels ask for."""

import numpy as np
import pytest

from slim.kernels import chunk_order, zigzag_order


def test_a_chunk_is_shared_by_all_devices():
  """Fails if the first chunk is not the short one, or pieces are mixed up."""
  order = chunk_order(14, 2, 3).reshape(2, 7)
  np.testing.assert_array_equal(order[0], [0, 2, 3, 4, 8, 9, 10])
  np.testing.assert_array_equal(order[1], [1, 5, 6, 7, 11, 12, 13])


@pytest.mark.parametrize(
  "order", [chunk_order(12, 3, 100), chunk_order(4, 4, 1)]
)
def test_one_chunk_is_contiguous(order):
  """Fails if a chunk that is too large, or of one token, is cut otherwise."""
  np.testing.assert_array_equal(order, np.arange(order.size))


def test_zigzag_pairs_early_and_late_stripes():
  """Fails if a device has two early stripes, and so less work."""
  order = zigzag_order(12, 3).reshape(3, 4)
  np.testing.assert_array_equal(
    order, [[0, 1, 10, 11], [2, 3, 8, 9], [4, 5, 6, 7]]
  )


@pytest.mark.parametrize(
  ("fn", "args", "message"),
  [
    (chunk_order, (13, 2, 3), "num_tokens must be a multiple of 2 for 2"),
    (zigzag_order, (6, 2), "num_tokens must be a multiple of 4 for 2"),
    (chunk_order, (12, 2, 0), "chunk_size must be a positive integer, got 0"),
    (zigzag_order, (12, 0), "num_devices must be a positive integer, got 0"),
  ],
)
def test_what_does_not_divide_is_refused(fn, args, message):
  """Fails if tokens are dropped without a word."""
  with pytest.raises(ValueError, match=message):
    fn(*args)
