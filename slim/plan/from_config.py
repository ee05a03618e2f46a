"""The plan of a config: the fastest gradient that fits a memory budget."""

import logging
from collections.abc import Sequence

import jax
import ml_collections

from slim import config as config_lib
from slim.config.byte_sizes import format_size, parse_size
from slim.plan.candidates import (
  PlannedModel,
  create_planned_model,
  make_formula,
  timed_rows,
  with_option,
)
from slim.plan.memory_estimate import tree_bytes
from slim.plan.options import Option
from slim.plan.search import Plan, Row, search
from slim.training import build, steps
from slim.training.compiled import (
  CompiledSteps,
  compile_gradient_step,
  compile_update_step,
  temporary_bytes,
)

_LOG = logging.getLogger("slim.plan")


def plan_config(config: ml_collections.ConfigDict, budget: int) -> Plan:
  """Finds the fastest gradient of a config that fits; nothing is run.

  The method, the policy and the chunk size are chosen. If none fits, reversible
  layers are tried, which are another network with the same parameters.

  Args:
    config: All settings. `gradient.method`, `policy` and `chunk_size` do not
      matter.
    budget: Bytes of the device or, on CPUs, of the whole process.

  Returns:
    The plan. Rows that are slower than the choice have an estimate only.

  Raises:
    SettingError: If a setting does not fit.

  Cost: one compilation per option that is too large, and one for the choice.
  """
  models = _create_models(config)
  plan, _ = _search(models, _list_rows(models), budget)
  return plan


def list_rows(config: ml_collections.ConfigDict) -> list[Row]:
  """Lists what `plan_config` can choose, in its order; nothing is compiled.

  Args:
    config: As for `plan_config`.

  Returns:
    Rows with predicted times and estimated activations.
  """
  return _list_rows(_create_models(config))


def fit_config(
  config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, build.Experiment, CompiledSteps]:
  """Lets `gradient.memory_budget` choose the gradient of a run.

  Args:
    config: All settings, validated.

  Returns:
    The settings with the method, policy and chunk size of the fastest gradient
    that fits and without a budget, the experiment they describe, and its
    compiled steps.

  Raises:
    ValueError: If no gradient fits.
  """
  name = "config.gradient.memory_budget"
  budget = parse_size(name, config.gradient.memory_budget)
  planned = create_planned_model(config)
  plan, programs = _search([planned], timed_rows(planned), budget)
  choice = plan.choice
  if choice is None or programs is None:
    raise ValueError(f"{name} {plan.describe_failure()}")
  _LOG.info(
    "%s=%s: %s, with activations of %s: %s in all",
    name,
    config.gradient.memory_budget,
    choice.option,
    format_size(choice.activation_bytes or 0),
    format_size(choice.total_bytes or 0),
  )
  return with_option(config, choice.option), *programs


def overrides(option: Option, config: ml_collections.ConfigDict) -> list[str]:
  """Returns the flags that change a config to an option.

  Args:
    option: The choice.
    config: The settings to be changed.

  Returns:
    `--config.…=…`, one for each setting that differs.
  """
  wanted = config_lib.flatten(with_option(config, option))
  return [
    f"--config.{name}={wanted[name]}"
    for name, value in config_lib.flatten(config).items()
    if value != wanted[name]
  ]


def _create_models(config: ml_collections.ConfigDict) -> list[PlannedModel]:
  """Creates the model of a config and, if it can be, the reversible one."""
  config_lib.validate(config)
  models = [create_planned_model(config)]
  if not config.model.reversible and config.model.norm != "post":
    other = models[0].config.copy_and_resolve_references()
    other.model.reversible = True
    models.append(create_planned_model(other))
  return models


def _list_rows(models: Sequence[PlannedModel]) -> list[Row]:
  """Lists the options of each model with their estimates."""
  rows = []
  for planned in models:
    formula = make_formula(planned)
    rows += [
      row._replace(formula_bytes=formula(row.option))
      for row in timed_rows(planned)
    ]
  return rows


def _search(
  models: Sequence[PlannedModel], rows: Sequence[Row], budget: int
) -> tuple[Plan, tuple[build.Experiment, CompiledSteps] | None]:
  """Compiles as training does; returns the last option's programs, too."""
  config, _, state = models[0]
  by_reversible = {x.config.model.reversible: x.experiment for x in models}
  batch = build.abstract_batch(config)
  last: tuple[build.Experiment, CompiledSteps] | None = None

  def compile_option(option):
    nonlocal last
    last = None  # Free the program that did not fit.
    experiment = by_reversible[option.reversible]
    gradient_steps = build.make_gradient_steps(
      with_option(config, option), experiment.model
    )
    gradient = compile_gradient_step(
      gradient_steps[option.method], state.params, batch
    )
    last = (
      experiment._replace(gradient_steps=gradient_steps),
      CompiledSteps({option.method: gradient}, update),
    )
    peak = max(gradient.activation_bytes, update_bytes)
    return gradient.activation_bytes, peak

  resident_bytes = {
    "parameters": tree_bytes(state.params),
    "their gradients": tree_bytes(state.params),
    "the optimizer": tree_bytes(state.opt_state),
    "the batch": tree_bytes(batch),
  }
  with jax.default_matmul_precision(config.matmul_precision):
    update = compile_update_step(
      steps.make_update_step(models[0].experiment.optimizer), state
    )
    update_bytes = temporary_bytes(update)
    plan = search(rows, budget, resident_bytes, compile_option)
  return plan, last
