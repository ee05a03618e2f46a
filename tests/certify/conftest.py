"""Fixtures that certify with fewer compilations."""

import pytest

from slim.certify import checks, gradients


@pytest.fixture
def one_size(monkeypatch):
  """Uses one chunk size, compiled once, and skips the check of memory."""
  for module in ("certify_step", "from_config"):
    monkeypatch.setattr(
      f"slim.certify.{module}.chunk_sizes", lambda length: (11, 11, 11)
    )
  monkeypatch.setattr(
    "slim.certify.certify_step.check_memory", lambda *_: iter(())
  )
  _differentiate_once(monkeypatch, id)


@pytest.fixture
def float64_only(one_size, monkeypatch):
  """Skips what is computed in float32, for a fault that float64 shows."""

  def check_rewound_states(dtype, *args):
    if dtype == "float64":
      yield from checks.check_rewound_states(dtype, *args)

  monkeypatch.setattr(
    "slim.certify.certify_step.check_rewound_states", check_rewound_states
  )
  # Float64 comes first; what is said of float32 repeats its results.
  _differentiate_once(monkeypatch, lambda call: None)


def _differentiate_once(monkeypatch, name_of):
  """Takes the first result for a chunk size, of calls with the same name."""
  found = {}

  def differentiate(call, chunk_size):
    key = name_of(call), chunk_size
    if key not in found:
      # With the call, so that no other object gets its identity.
      found[key] = call, gradients.differentiate(call, chunk_size)
    return found[key][1]

  monkeypatch.setattr("slim.certify.certify_step.differentiate", differentiate)
