"""Sizes in bytes, parsed and formatted."""

import math

import pytest

from slim.config.byte_sizes import (
  format_size,
  parse_size,
)


@pytest.mark.parametrize(
  ("text", "size"),
  [("2GiB", 2**31), ("1.5 MiB", 3 * 2**19), ("0.5KiB", 512), ("3TiB", 3 << 40)],
)
def test_sizes_are_read(text, size):
  """Fails if a budget is not the one that was meant."""
  assert parse_size("budget", text) == size


@pytest.mark.parametrize("text", ["2", "2GB", "GiB", "0MiB", "-1MiB", "2gib"])
def test_what_is_no_size_is_refused(text):
  """Fails if 2GB is guessed to be 2GiB."""
  with pytest.raises(ValueError, match="^--budget must be a number above 0 wi"):
    parse_size("--budget", text)


@pytest.mark.parametrize(
  ("size", "text"),
  [
    (0, "0.0 KiB"),
    (512, "0.5 KiB"),
    (48.25 * 2**20, "48.2 MiB"),
    (1023 * 2**20, "1023 MiB"),
    (1.25 * 2**30, "1.2 GiB"),
  ],
)
def test_sizes_are_written(size, text):
  """Fails if tables are hard to read, or a named bound is not enough."""
  assert format_size(size) == text
  at_least, at_most = (
    parse_size("x", format_size(max(size, 103), rounding))
    for rounding in (math.ceil, math.floor)
  )
  assert at_most <= max(size, 103) <= at_least
