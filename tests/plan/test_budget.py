"""Budgets: those given, those of a target, and mistakes."""

import pathlib

import pytest

from slim.plan import __main__ as plan
from slim.plan.budget import parse_budget
from slim.targets import HERE, Target
from tests.commands import run_command

ROOT = pathlib.Path(__file__).parents[2]


def test_a_budget_is_given_or_that_of_the_target():
  """Fails if a budget in words is ignored, or a device has none."""
  h100 = Target("cuda:h100")
  assert parse_budget("budget", "2GiB", HERE) == 2 * 2**30
  assert parse_budget("budget", "2GiB", h100) == 2 * 2**30
  assert parse_budget("budget", None, h100) == h100.memory_bytes


def test_a_missing_budget_is_one_line():
  """Fails if this machine's memory is guessed."""
  done = run_command(plan.main, f"--config={ROOT}/configs/quickstart.py:smoke")
  assert done.code == 1
  assert done.errors == (
    "error: --budget is missing: pass the memory that the gradient may take, "
    "as in 2GiB, or a target\n"
  )


def test_more_than_the_device_has_is_refused():
  """Fails if a plan is made for memory that is not there."""
  with pytest.raises(ValueError) as error:
    parse_budget("--budget", "200GiB", Target("tpu:v5e"))
  assert str(error.value) == (
    "--budget must be at most 15.7 GiB, the memory of tpu:v5e, got 200GiB"
  )
