"""Runs that keep their best checkpoint, and end when nothing gets better."""

import logging

import pytest

from slim import train
from slim.runs import checkpoints
from slim.runs.interruptions import Interruptions
from slim.training import devices
from slim.types import Sums
from tests.train.cases import make

pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture
def losses(monkeypatch):
  """Sets the validation losses of a run, one for each evaluation."""

  def set_losses(*values):
    left = list(values)
    monkeypatch.setattr(
      devices,
      "make_evaluation",
      lambda *args, **kwargs: lambda params: Sums(left.pop(0), 0.5, 1.0),
    )

  return set_losses


def test_the_best_checkpoint_is_kept(tmp_path, losses):
  """Fails if newer checkpoints push it out, also after a resume."""
  settings = dict(
    train__eval_every=1,
    train__checkpoint_every=100,
    train__keep_checkpoints=1,
    train__keep_best="eval/loss",
  )
  losses(3.0, 1.0, 2.0)
  train.train_and_evaluate(
    make(train__num_steps=3, **settings), str(tmp_path / "run")
  )
  assert checkpoints.list_steps(str(tmp_path / "run")) == [2, 3]
  losses(2.0, 1.5, 1.2)
  train.train_and_evaluate(make(**settings), str(tmp_path / "run"))
  assert checkpoints.list_steps(str(tmp_path / "run")) == [2, 6]


def test_a_run_ends_when_nothing_gets_better(tmp_path, losses, caplog):
  """Fails if patience is not counted from the best, or a resume goes on."""
  settings = make(train__eval_every=1, train__patience=2)
  losses(2.0, 1.0, 1.5, 1.0)
  with caplog.at_level(logging.INFO, "slim"):
    state = train.train_and_evaluate(settings, str(tmp_path))
    again = train.train_and_evaluate(settings, str(tmp_path))
  assert state.step == again.step == 4
  assert any(
    message == "config.train.patience=2: saved after step 4"
    for message in caplog.messages
  )
  assert caplog.messages[-1] == (
    "already ended by config.train.patience: nothing to do"
  )


def test_an_evaluation_that_was_due_may_end_a_run(
  tmp_path, losses, monkeypatch
):
  """Fails if a run that was stopped does an update more than another."""
  settings = make(train__eval_every=1, train__patience=1)
  losses(1.0)
  wishes = iter([False, False, True])
  with monkeypatch.context() as context:
    context.setattr(Interruptions, "should_end", lambda *_: next(wishes))
    assert train.train_and_evaluate(settings, str(tmp_path)).step == 2
  losses(2.0)
  assert train.train_and_evaluate(settings, str(tmp_path)).step == 2


def test_what_a_step_is(tmp_path, monkeypatch):
  """Fails if an evaluation counts as one, or a failed save is not noticed."""
  events = []

  def evaluate(params):
    events.append("evaluate")
    return Sums(2.0, 0.5, 1.0)

  monkeypatch.setattr(devices, "make_evaluation", lambda *_, **__: evaluate)
  for owner, name in (
    (Interruptions, "start_steps"),
    (checkpoints.Checkpointer, "check"),
  ):
    monkeypatch.setattr(owner, name, lambda _, name=name: events.append(name))
  settings = make(train__eval_every=1, train__num_steps=2)
  train.train_and_evaluate(settings, str(tmp_path))
  step = ["check", "evaluate", "start_steps"]
  assert events == ["start_steps", *step, *step]
