"""The search: the fastest that fits, and nothing slower compiled."""

import pytest

from slim.plan.options import Option
from slim.plan.search import (
  Row,
  _process_bytes,
  search,
)

MIB = 2**20
ROWS = [
  Row(Option("full", None, None, False), 1.0, 90),
  Row(Option("slim", 64, "store", False), 1.4, 50),
  Row(Option("slim", 32, "store", False), 1.5, 20),
  Row(Option("slim", 16, "store", False), 1.6, 9),
]
ACTIVATIONS = {None: 100, 64: 50, 32: 25, 16: 30}


@pytest.fixture
def no_process(monkeypatch):
  """As on a device, whose memory the process does not share."""
  monkeypatch.setattr("slim.plan.search._process_bytes", lambda: 0)


def make_plan(budget):
  """Searches; returns the chunk sizes that were compiled, too."""
  compiled = []

  def compile_option(option):
    compiled.append(option.chunk_size)
    activations = ACTIVATIONS[option.chunk_size] * MIB
    return activations, max(activations, 28 * MIB)  # As of an update.

  resident = {"weights": 7 * MIB}
  return search(ROWS, budget * MIB, resident, compile_option), compiled


@pytest.mark.parametrize(
  ("budget", "compiled", "total"),
  [
    (107, [None], 107),
    (106, [None, 64], 57),
    (56, [None, 64, 32], 35),
  ],
)
def test_the_fastest_that_fits_is_chosen(no_process, budget, compiled, total):
  """A run would be slower than it has to be, or larger than it may."""
  found, tried = make_plan(budget)
  assert tried == compiled
  assert found.choice.option.chunk_size == compiled[-1]
  assert found.choice.total_bytes == total * MIB
  assert [x.total_bytes for x in found.rows[len(tried) :]] == [None] * (
    len(ROWS) - len(tried)
  )


def test_where_nothing_fits_it_says_what_would(no_process):
  """A user would have to guess by how much it is too large."""
  found, tried = make_plan(34)
  assert len(tried) == len(ROWS)
  assert found.choice is None
  assert found.describe_failure() == (
    "must be at least 35.0 MiB, of which activations are 25.0 MiB "
    "(slim, store, C = 32), got 34.0 MiB"
  )


def test_a_cpu_holds_the_process_too(monkeypatch):
  """A run would be killed for what Python and the compiler need."""
  found, _ = make_plan(2**20)
  assert 2**28 < found.resident_bytes["the process"] < 2**33
  assert (
    found.choice.total_bytes == sum(found.resident_bytes.values()) + 100 * MIB
  )
  monkeypatch.setattr("jax.default_backend", lambda: "gpu")
  assert _process_bytes() == 0


def test_the_table_has_all(no_process):
  """A user would see the choice alone, or not what was compiled."""
  lines = str(make_plan(106)[0]).splitlines()
  assert lines[0].split()[:4] == ["gradient", "C", "time", "formula"]
  assert len(lines) == len(ROWS) + 2
  assert [line.endswith("fits") for line in lines[1:-1]] == [False, True] + [
    False
  ] * 2
  assert lines[-1].startswith("the total is activations and weights 7.0 MiB")
