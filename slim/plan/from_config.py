"""Plan a config: find its fastest gradient that fits a memory budget."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import jax
import ml_collections

from slim import config as config_lib
from slim.config.byte_sizes import format_size, parse_size
from slim.plan.candidates import (
  PlannedModel,
  create_planned_model,
  list_candidates,
  make_estimator,
  with_choice,
)
from slim.plan.fits import list_resident_bytes
from slim.plan.gradient_choice import GradientChoice
from slim.plan.results import Candidate, Plan
from slim.plan.search import CompiledSize, search
from slim.targets import HERE, Target
from slim.training import build, devices
from slim.training.compiled import (
  CompiledSteps,
  compile_gradient_step,
  compile_update,
  take_host_batches,
)

_LOG = logging.getLogger("slim.plan")


def plan_config(
  config: ml_collections.ConfigDict, budget: int, target: Target = HERE
) -> Plan:
  """Finds the fastest gradient of a config that fits; nothing is run.

  The method, the policy and the chunk size are chosen. If none fits, reversible
  layers are tried, which are another network with the same parameters.

  Args:
    config: All settings. `gradient.method`, `policy` and `chunk_size` must fit
      each other, and are not used.
    budget: Bytes of the device or, on CPUs, of the whole process.
    target: What to compile for; this machine need not have it.

  Returns:
    The plan. Candidates slower than the choice are not compiled.

  Raises:
    SettingError: If a setting does not fit.

  Cost: one compilation per candidate that is too large, and one for the choice.
  """
  models = _create_models(config, target)
  plan, _ = _search(models, _estimate_all(models, target), budget, target)
  return plan


def list_estimates(
  config: ml_collections.ConfigDict, target: Target = HERE
) -> list[Candidate]:
  """Lists the candidates of `plan_config` in its order; nothing is compiled.

  Args:
    config: All settings, as for `plan_config`.
    target: Likewise.

  Returns:
    Candidates with predicted times and estimated activations.
  """
  return _estimate_all(_create_models(config, target), target)


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
  planned = create_planned_model(config, devices.create_mesh(config))
  plan, last = _search([planned], list_candidates(planned), budget, HERE)
  choice = plan.choice
  if choice is None or choice.memory is None or last is None:
    raise ValueError(f"{name} {plan.describe_failure()}")
  _LOG.info(
    "%s=%s: %s, with activations of %s: %s in all",
    name,
    config.gradient.memory_budget,
    choice.gradient,
    format_size(choice.memory.activation_bytes),
    format_size(choice.memory.total_bytes),
  )
  config = with_choice(config, choice.gradient)
  compiled = take_host_batches(config, last.experiment, last.steps)
  return config, last.experiment, compiled


def override_flags(
  choice: GradientChoice, config: ml_collections.ConfigDict
) -> list[str]:
  """Lists the flags that select a gradient.

  Args:
    choice: How to compute the gradient.
    config: The settings to override.

  Returns:
    `--config.…=…`, one per setting that differs.
  """
  wanted = config_lib.flatten(with_choice(config, choice))
  return [
    f"--config.{name}={wanted[name]}"
    for name, value in config_lib.flatten(config).items()
    if value != wanted[name]
  ]


class _Programs(NamedTuple):
  """An experiment and its compiled steps."""

  experiment: build.Experiment
  steps: CompiledSteps


def _create_models(
  config: ml_collections.ConfigDict, target: Target
) -> list[PlannedModel]:
  """Creates the model of a config and, if possible, the reversible one."""
  config_lib.validate(config)
  mesh = devices.create_mesh(config, target)
  models = [create_planned_model(config, mesh)]
  if not config.model.reversible and config.model.norm != "post":
    other = models[0].config.copy_and_resolve_references()
    other.model.reversible = True
    models.append(create_planned_model(other, mesh))
  return models


def _estimate_all(
  models: Sequence[PlannedModel], target: Target
) -> list[Candidate]:
  """Lists the candidates of each model with their estimates."""
  candidates = []
  for planned in models:
    estimate = make_estimator(planned)
    candidates += [
      x._replace(estimated_bytes=estimate(x.gradient))
      for x in list_candidates(planned, target)
    ]
  return candidates


def _search(
  models: Sequence[PlannedModel],
  candidates: Sequence[Candidate],
  budget: int,
  target: Target,
) -> tuple[Plan, _Programs | None]:
  """Compiles as training does; also returns the last compiled programs."""
  config, experiment, state, *_ = models[0]
  by_reversible = {x.config.model.reversible: x.experiment for x in models}
  batch = devices.abstract_batch(config, experiment)
  last: _Programs | None = None

  def compile_gradient(choice: GradientChoice) -> CompiledSize:
    nonlocal last
    last = None  # Free the program that did not fit.
    experiment = by_reversible[choice.reversible]
    gradient_steps = build.make_gradient_steps(
      with_choice(config, choice), experiment.model, experiment.mesh
    )
    gradient = compile_gradient_step(
      gradient_steps[choice.method], state.params, batch, target
    )
    last = _Programs(
      experiment._replace(gradient_steps=gradient_steps),
      CompiledSteps({choice.method: gradient}, update),
    )
    peak = max(gradient.activation_bytes, update_bytes)
    return CompiledSize(gradient.activation_bytes, peak)

  resident_bytes = list_resident_bytes(state, batch)
  with jax.default_matmul_precision(config.matmul_precision):
    update = compile_update(config, experiment, state, target)
    update_bytes = target.temporary_bytes(update)
    plan = search(candidates, budget, resident_bytes, compile_gradient, target)
  return plan, last
