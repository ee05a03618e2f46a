"""The search chooses the fastest fit, and compiles nothing slower."""

import pytest

from slim.plan.gradient_choice import GradientChoice
from slim.plan.results import Candidate
from slim.plan.search import CompiledSize, search
from slim.plan.time_estimate import PredictedTime
from slim.targets import DoesNotFitError, Target

MIB = 2**20
CANDIDATES = [
  Candidate(GradientChoice("full", None, None, False), PredictedTime(1.0), 90),
  Candidate(GradientChoice("slim", 64, "store", False), PredictedTime(1.4), 50),
  Candidate(GradientChoice("slim", 32, "store", False), PredictedTime(1.5), 20),
  Candidate(GradientChoice("slim", 16, "store", False), PredictedTime(1.6), 9),
]
ACTIVATIONS = {None: 100, 64: 50, 32: 25, 16: 30}


@pytest.fixture
def no_process(monkeypatch):
  """Counts no memory for the process, as on an accelerator."""
  monkeypatch.setattr("slim.plan.search.process_bytes", lambda: 0)


def make_plan(budget):
  """Returns the plan and the chunk sizes that were compiled."""
  compiled = []

  def compile_gradient(choice):
    compiled.append(choice.chunk_size)
    activations = ACTIVATIONS[choice.chunk_size] * MIB
    # The update of the parameters needs 28 MiB.
    return CompiledSize(activations, max(activations, 28 * MIB))

  resident = {"weights": 7 * MIB}
  found = search(CANDIDATES, budget * MIB, resident, compile_gradient)
  return found, compiled


@pytest.mark.parametrize(
  ("budget", "compiled", "total"),
  [
    (107, [None], 107),
    (106, [None, 64], 57),
    (56, [None, 64, 32], 35),
  ],
)
def test_fastest_fit_is_chosen(no_process, budget, compiled, total):
  """Fails if the choice is slower than necessary, or does not fit."""
  found, tried = make_plan(budget)
  assert tried == compiled
  assert found.choice.gradient.chunk_size == compiled[-1]
  assert found.choice.memory.total_bytes == total * MIB
  assert [x.memory for x in found.candidates[len(tried) :]] == [None] * (
    len(CANDIDATES) - len(tried)
  )


def test_failure_names_sufficient_budget(no_process):
  """Fails if a user must guess which budget suffices."""
  found, tried = make_plan(34)
  assert len(tried) == len(CANDIDATES)
  assert found.choice is None
  assert found.describe_failure() == (
    "must be at least 35.0 MiB, of which activations are 25.0 MiB "
    "(slim, store, C = 32), got 34.0 MiB"
  )


def test_process_counts_on_cpus(monkeypatch):
  """Fails if the memory of Python and the compiler is left out."""
  found, _ = make_plan(2**20)
  assert 2**28 < found.resident_bytes["the process"] < 2**33
  assert (
    found.choice.memory.total_bytes
    == sum(found.resident_bytes.values()) + 100 * MIB
  )
  monkeypatch.setattr(Target, "platform", "gpu")
  found, _ = make_plan(2**20)
  assert "the process" not in found.resident_bytes


def test_table_lists_all_candidates(no_process):
  """Fails if a candidate or its fit is missing from the table."""
  lines = str(make_plan(106)[0]).splitlines()
  assert lines[0].split()[:4] == ["gradient", "C", "time", "estimate"]
  assert len(lines) == len(CANDIDATES) + 2
  assert [line.endswith("fits") for line in lines[1:-1]] == [False, True] + [
    False
  ] * 2
  assert lines[-1].startswith("total = activations + weights 7.0 MiB")


def test_what_the_compiler_refuses_does_not_fit(no_process):
  """Fails if a plan ends at the first program that a TPU refuses."""

  def compile_gradient(choice):
    if choice.chunk_size is None:
      raise DoesNotFitError("tpu:v5e", 90 * 2**30, 16 * 2**30)
    return CompiledSize(50 * MIB, 50 * MIB)

  found = search(CANDIDATES, 2**34, {}, compile_gradient)
  assert found.choice.gradient.chunk_size == 64
  assert found.candidates[0].memory.activation_bytes == 90 * 2**30
