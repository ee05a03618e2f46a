"""A fixture that certifies with fewer compilations."""

import pytest


@pytest.fixture
def one_size(monkeypatch):
  """Uses one chunk size and skips the check of memory."""
  for module in ("certify_step", "from_config"):
    monkeypatch.setattr(
      f"slim.certify.{module}.chunk_sizes", lambda length: (11, 11, 11)
    )
  monkeypatch.setattr(
    "slim.certify.certify_step.check_memory", lambda *_: iter(())
  )
