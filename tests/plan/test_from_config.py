"""The plan of a config, and a run that fits its budget."""

import pytest

from slim import config as config_lib
from slim.plan.candidates import (
  create_planned_model,
  make_formula,
  timed_rows,
)
from slim.plan.from_config import (
  fit_config,
  list_rows,
  overrides,
  plan_config,
)
from slim.plan.options import Option
from slim.plan.search import Plan
from slim.runs.workdir import read_config
from slim.train import train_and_evaluate
from tests.helpers import SMALL, make_config

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture
def no_process(monkeypatch):
  """As on a device, whose memory the process does not share."""
  monkeypatch.setattr("slim.plan.search._process_bytes", lambda: 0)


def make(**settings):
  """Returns settings of a small model; dots in names are written as __."""
  defaults = SMALL | dict(
    data__sequence_length=32, gradient__chunk_size=16, train__num_steps=2
  )
  return make_config(**(defaults | settings))


@pytest.fixture
def no_formula(monkeypatch):
  """Counts nothing of the activations, which takes a trace for each size."""
  monkeypatch.setattr(
    "slim.plan.from_config.make_formula", lambda planned: lambda option: 0
  )


def names(rows):
  """The options in their order, without chunk sizes."""
  return list(dict.fromkeys(row.option.name for row in rows))


def test_what_a_model_can_is_listed(no_formula):
  """A setting would be recommended that is refused, or one be missed."""
  slim = [f"slim, {policy}" for policy in ("rewind", "store", "sqrt")]
  reversible = [f"{name}, reversible" for name in ("full", *slim)]
  assert names(list_rows(make())) == ["full", "remat", *slim, *reversible]
  favor = make(model__feature_map="favor", gradient__policy="store")
  assert "slim, rewind" not in names(list_rows(favor))
  assert "slim, store" in names(list_rows(favor))
  attends = make(
    model__attention="softmax", gradient__method="full", model__norm="post"
  )
  assert names(list_rows(attends)) == ["full", "remat"]
  reformer = make(
    model__attention="lsh",
    model__bucket_size=8,
    model__reversible=True,
    gradient__method="full",
  )
  assert names(list_rows(reformer)) == ["full, reversible"]


def test_own_layers_come_before_reversible_ones(no_process, no_formula):
  """Another network would be trained than the one that was asked for."""
  config = make()
  rows = list_rows(config)
  order = [(row.option.reversible, row.time) for row in rows]
  assert order == sorted(order)
  plenty = plan_config(config, 2**30)
  assert plenty.choice.option == Option("full", None, None, False)
  assert overrides(plenty.choice.option, config) == [
    "--config.gradient.method=full"
  ]


def test_what_is_to_be_pasted_changes_what_differs():
  """A line would be longer than it must be, or not lead to the choice."""
  config = make(gradient__policy="store")
  option = Option("slim", 32, "rewind", True)
  assert overrides(option, config) == [
    "--config.gradient.chunk_size=32",
    "--config.gradient.policy=rewind",
    "--config.model.reversible=True",
  ]
  assert not overrides(Option("slim", 16, "store", False), config)


def test_accumulation_is_planned_as_it_is_run():
  """Its parts need less, and each of them goes through the weights."""
  whole, parts = (
    create_planned_model(make(train__accumulation_steps=number))
    for number in (1, 4)
  )
  option = Option("full", None, None, False)
  assert make_formula(parts)(option) < 0.5 * make_formula(whole)(option)
  times = {row.option: row.time for row in timed_rows(whole)}
  rows = timed_rows(parts)
  assert all(row.time >= times[row.option] for row in rows)
  assert rows[-1].time > times[rows[-1].option]


@pytest.mark.slow
def test_a_run_chooses_and_goes_on_with_it(no_process, tmp_path):
  """It would not fit; or, continued, be refused or go on in other chunks."""
  config = make(model__norm="post")  # It cannot be reversible.
  option = Option("slim", 16, "rewind", False)
  [row] = [x for x in plan_config(config, 1).rows if x.option == option]
  config.gradient.chunk_size = None
  config.gradient.memory_budget = f"{row.total_bytes / 2**10 + 0.01:.2f}KiB"
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
  assert train_and_evaluate(config, str(tmp_path)).step == 3
  assert read_config(str(tmp_path)).gradient == stored


def test_a_wrong_file_is_found_before_anything_is_compiled(
  monkeypatch, tmp_path
):
  """A user would wait for minutes to be told of a typing error."""
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


def test_a_run_keeps_its_network(monkeypatch):
  """A budget would decide what is trained."""
  seen = []

  def find_none(rows, budget, resident_bytes, compile_option):
    seen.extend(rows)
    row = rows[-1]._replace(activation_bytes=2**20, total_bytes=2**21)
    return Plan((row,), budget, resident_bytes)

  monkeypatch.setattr("slim.plan.from_config.search", find_none)
  config = make(gradient__chunk_size=None, gradient__memory_budget="1KiB")
  with pytest.raises(ValueError) as error:
    fit_config(config)
  assert str(error.value) == (
    "config.gradient.memory_budget must be at least 2.0 MiB, of which "
    "activations are 1.0 MiB (slim, sqrt, C = 16), got 1.0 KiB"
  )
  assert len(seen) == 5
  assert not any(row.option.reversible for row in seen)


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
def test_what_is_not_one_wish_is_refused(settings, message):
  """One of two settings would be ignored, or a run be without any."""
  with pytest.raises(ValueError) as error:
    config_lib.validate(make(**settings))
  assert str(error.value).startswith(message)
