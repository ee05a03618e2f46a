"""The plan of a config, and a run that fits its budget."""

import logging

import jax
import pytest
from jax.sharding import AbstractMesh

from slim import config as config_lib
from slim.plan.candidates import (
  create_planned_model,
  list_candidates,
  make_estimator,
)
from slim.plan.from_config import (
  fit_config,
  list_estimates,
  override_flags,
  plan_config,
)
from slim.plan.gradient_choice import GradientChoice
from slim.plan.results import CompiledMemory, Plan
from slim.runs.config_json import read_config
from slim.train import train_and_evaluate
from slim.training import build, steps
from tests.helpers import SMALL, make_config

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture
def no_process(monkeypatch):
  """Counts no memory for the process, as on an accelerator."""
  monkeypatch.setattr("slim.plan.search.process_bytes", lambda: 0)


def make(**settings):
  """Returns settings of a small model; dots in names are written as __."""
  defaults = SMALL | dict(
    data__sequence_length=32, gradient__chunk_size=16, train__num_steps=2
  )
  return make_config(**(defaults | settings))


@pytest.fixture
def no_estimate(monkeypatch):
  """Skips the estimates, which take a trace per chunk size."""
  monkeypatch.setattr(
    "slim.plan.from_config.make_estimator", lambda planned: lambda choice: 0
  )


def names(candidates):
  """Returns the names of candidates in their order, without chunk sizes."""
  return list(dict.fromkeys(x.gradient.name for x in candidates))


def test_candidates_of_models(no_estimate):
  """Fails if a candidate does not fit the model, or one is missing."""
  slim = [f"slim, {policy}" for policy in ("rewind", "store", "sqrt")]
  reversible = [f"{name}, reversible" for name in ("full", *slim)]
  assert names(list_estimates(make())) == ["full", "remat", *slim, *reversible]
  favor = make(model__feature_map="favor", gradient__policy="store")
  assert "slim, rewind" not in names(list_estimates(favor))
  assert "slim, store" in names(list_estimates(favor))
  attends = make(
    model__attention="softmax", gradient__method="full", model__norm="post"
  )
  assert names(list_estimates(attends)) == ["full", "remat", "slim, rewind"]
  planned = create_planned_model(attends)
  shared = planned.experiment._replace(mesh=AbstractMesh((2,), ("sequence",)))
  found = list_candidates(planned._replace(experiment=shared))
  assert names(found) == ["full", "remat"]
  reformer = make(
    model__attention="lsh",
    model__bucket_size=8,
    model__reversible=True,
    gradient__method="full",
  )
  assert names(list_estimates(reformer)) == ["full, reversible"]


def test_reversible_layers_come_last(no_process, no_estimate):
  """Fails if another network is chosen although the given one fits."""
  config = make()
  candidates = list_estimates(config)
  order = [(x.gradient.reversible, x.time.relative) for x in candidates]
  assert order == sorted(order)
  plenty = plan_config(config, 2**30)
  assert plenty.choice.gradient == GradientChoice("full", None, None, False)
  assert override_flags(plenty.choice.gradient, config) == [
    "--config.gradient.method=full"
  ]


def test_flags_change_what_differs():
  """Fails if a flag is redundant, or the flags select another gradient."""
  config = make(gradient__policy="store")
  choice = GradientChoice("slim", 32, "rewind", True)
  assert override_flags(choice, config) == [
    "--config.gradient.chunk_size=32",
    "--config.gradient.policy=rewind",
    "--config.model.reversible=True",
  ]
  assert not override_flags(GradientChoice("slim", 16, "store", False), config)


def test_accumulation():
  """Fails if parts of a batch need the memory or time of the whole."""
  whole, parts = (
    create_planned_model(make(train__accumulation_steps=number))
    for number in (1, 4)
  )
  full = GradientChoice("full", None, None, False)
  assert make_estimator(parts)(full) < 0.5 * make_estimator(whole)(full)
  times = {x.gradient: x.time.relative for x in list_candidates(whole)}
  candidates = list_candidates(parts)
  assert all(x.time.relative >= times[x.gradient] for x in candidates)
  assert candidates[-1].time.relative > times[candidates[-1].gradient]


@pytest.mark.slow
def test_resumed_run_keeps_its_choice(no_process, tmp_path, caplog):
  """Fails if a run does not fit, or resumes with another gradient."""
  config = make(model__norm="post")  # It cannot be reversible.
  choice = GradientChoice("slim", 16, "rewind", False)
  [memory] = [
    x.memory for x in plan_config(config, 1).candidates if x.gradient == choice
  ]
  config.gradient.chunk_size = None
  config.gradient.memory_budget = f"{memory.total_bytes / 2**10 + 0.01:.2f}KiB"
  train_and_evaluate(config, str(tmp_path))
  stored = read_config(str(tmp_path)).gradient
  assert stored.to_dict() == {
    "method": "slim",
    "chunk_size": 16,
    "policy": "rewind",
    "memory_budget": None,
  }
  config.gradient.memory_budget = "1TiB"
  config.train.num_steps = 3
  with caplog.at_level(logging.INFO, "slim"):
    assert train_and_evaluate(config, str(tmp_path)).step == 3
  assert "memory_budget chooses nothing: the run in" in caplog.text
  assert read_config(str(tmp_path)).gradient == stored


def test_a_run_compiles_its_choice_once(no_process, monkeypatch, tmp_path):
  """Fails if a run plans, and then validates and compiles again."""
  calls = []

  def count(owner, name):
    original = getattr(owner, name)

    def counting(*args, **kwargs):
      calls.append(name)
      return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)

  count(jax.stages.Lowered, "compile")
  count(build, "create_experiment")
  count(config_lib, "validate")
  count(steps, "is_usable")
  config = make(
    gradient__chunk_size=None,
    gradient__memory_budget="1TiB",
    train__max_skipped=1,
  )
  train_and_evaluate(config, str(tmp_path))
  assert read_config(str(tmp_path)).gradient.method == "full"
  assert calls.count("compile") == 2  # The update and the gradient.
  assert calls.count("create_experiment") == 1
  assert calls.count("validate") == 2  # One of them is of `read_config`.
  assert calls.count("is_usable") == 1  # The update skips as it is told.


def test_missing_file_is_found_before_compiling(monkeypatch, tmp_path):
  """Fails if a user waits minutes for the message about a typing error."""
  monkeypatch.setattr("slim.plan.from_config.search", None)
  config = make(
    data__name="text",
    data__path=str(tmp_path / "none"),
    data__vocab_size=256,
    gradient__chunk_size=None,
    gradient__memory_budget="1GiB",
  )
  with pytest.raises(ValueError, match="^config.data.path"):
    train_and_evaluate(config, str(tmp_path / "run"))
  assert not list(tmp_path.iterdir())


def test_budget_keeps_network(monkeypatch):
  """Fails if a budget makes layers reversible, another network."""
  seen = []

  def find_none(candidates, budget, resident_bytes, *_):
    seen.extend(candidates)
    memory = CompiledMemory(activation_bytes=2**20, total_bytes=2**21)
    last = candidates[-1]._replace(memory=memory)
    return Plan((last,), budget, resident_bytes)

  monkeypatch.setattr("slim.plan.from_config.search", find_none)
  config = make(gradient__chunk_size=None, gradient__memory_budget="1KiB")
  with pytest.raises(ValueError) as error:
    fit_config(config)
  assert str(error.value) == (
    "config.gradient.memory_budget must be at least 2.0 MiB, of which "
    "activations are 1.0 MiB (slim, sqrt, C = 16), got 1.0 KiB"
  )
  assert len(seen) == 5
  assert not any(x.gradient.reversible for x in seen)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      dict(gradient__memory_budget="2GiB"),
      "config.gradient.chunk_size must be None for config.gradient.memory_bud",
    ),
    (
      dict(gradient__chunk_size=None),
      "config.gradient.chunk_size must be a number of tokens for config.grad",
    ),
    (
      dict(gradient__chunk_size=None, gradient__memory_budget="2GB"),
      "config.gradient.memory_budget must be a number above 0 with one of th",
    ),
  ],
)
def test_conflicting_settings_raise(settings, message):
  """Fails if one of two settings is ignored, or both are missing."""
  with pytest.raises(ValueError) as error:
    config_lib.validate(make(**settings))
  assert str(error.value).startswith(message)


def test_a_budget_is_for_training_and_planning():
  """Fails if `slim.memory` asks for a chunk size that excludes the budget."""
  settings = make(gradient__chunk_size=None, gradient__memory_budget="2GiB")
  model = build.create_model(settings)
  with pytest.raises(ValueError, match="memory_budget must be None here, as"):
    build.make_gradient_steps(settings, model)
