"""Files are read as texts and cut into splits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slim.data.dataset import SPLITS
from slim.data.splits import cut_text, load_text


@given(size=st.integers(0, 2000))
def test_splits_part_the_text(size):
  """Fails if a byte is in two splits, or in none."""
  data = np.arange(size) % 256
  parts = [cut_text("text", data, split).data for split in SPLITS]
  np.testing.assert_array_equal(np.concatenate(parts), data)
  stops = np.cumsum([part.size for part in parts])
  assert list(stops) == [int(size * 0.9 + 1e-6), int(size * 0.95 + 1e-6), size]


def test_splits_of_enwik8_are_the_usual_ones():
  """Fails if results cannot be compared with published ones."""
  data = np.broadcast_to(np.uint8(0), 100_000_000)
  sizes = [cut_text("enwik8", data, split).data.size for split in SPLITS]
  assert sizes == [90_000_000, 5_000_000, 5_000_000]


def test_any_bytes_can_be_loaded(tmp_path):
  """Fails if a file that is not UTF-8 is refused or changed."""
  path = tmp_path / "bytes"
  path.write_bytes(bytes(range(256)) + b"\r\n\xff")
  data = load_text(str(path))
  assert data.dtype == np.uint8
  assert data.tobytes() == bytes(range(256)) + b"\r\n\xff"


@pytest.mark.parametrize(
  "kind, words",
  [
    ("missing", "No such file"),
    ("directory", "Is a directory"),
    ("empty", "is empty, 0 bytes"),
  ],
)
def test_a_file_that_cannot_be_read_gets_one_line(kind, words, tmp_path):
  """Fails if the user sees a traceback of NumPy."""
  (tmp_path / "directory").mkdir()
  (tmp_path / "empty").touch()
  with pytest.raises(ValueError) as error:
    load_text(tmp_path / kind)
  message = str(error.value)
  assert message.startswith("path: ")
  assert str(tmp_path / kind) in message
  assert words in message
  assert "pass the path of a file" in message
  assert "\n" not in message
