"""A config's plan: its gradient in all ways, and with reversible layers."""

import logging

import jax
import ml_collections

from slim import config as config_lib
from slim.config.byte_sizes import (
  format_size,
  parse_size,
)
from slim.plan.candidates import (
  create_network,
  make_formula,
  timed_rows,
  with_option,
)
from slim.plan.memory_estimate import tree_bytes
from slim.plan.options import Option
from slim.plan.search import (
  Plan,
  Row,
  search,
)
from slim.training import (
  build as experiment,
)
from slim.training import (
  steps,
)

_LOG = logging.getLogger("slim.plan")


def plan_config(config: ml_collections.ConfigDict, budget: int) -> Plan:
  """Finds the fastest gradient of a config that fits; nothing is run.

  The method, the policy and the chunk size are chosen. If none fits, layers
  become reversible, which is another network of the same parameters.

  Args:
    config: All settings. `gradient.method`, `policy` and `chunk_size` do not
      matter.
    budget: Bytes of the device, or, on CPUs, of the whole process.

  Returns:
    The plan; what is slower than the choice has its formula only.

  Raises:
    ValueError: If a setting does not fit.

  Cost: a compilation for each option that is too large.
  """
  return _search(config, list_rows(config), budget)


def list_rows(config: ml_collections.ConfigDict) -> list[Row]:
  """Lists what `plan_config` may choose, in its order; nothing is compiled.

  Args:
    config: As of `plan_config`.

  Returns:
    Rows with predicted times and formulas.
  """
  networks = [create_network(config)]
  if not config.model.reversible and config.model.norm != "post":
    other = networks[0].config.copy_and_resolve_references()
    other.model.reversible = True
    networks.append(create_network(other))
  rows = []
  for network in networks:
    formula = make_formula(network)
    rows += [
      row._replace(formula_bytes=formula(row.option))
      for row in timed_rows(network)
    ]
  return rows


def fit_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Lets `gradient.memory_budget` choose what is left open.

  Args:
    config: All settings.

  Returns:
    The settings with method, policy and chunk size of the fastest gradient that
    fits, and no budget.

  Raises:
    ValueError: If none fits.
  """
  name = "config.gradient.memory_budget"
  budget = parse_size(name, config.gradient.memory_budget)
  found = _search(config, timed_rows(create_network(config)), budget)
  if found.choice is None:
    raise ValueError(f"{name} {found.describe_failure()}")
  _LOG.info(
    "%s=%s: %s, with activations of %s: %s in all",
    name,
    config.gradient.memory_budget,
    found.choice.option,
    format_size(found.choice.activation_bytes),
    format_size(found.choice.total_bytes),
  )
  return with_option(config, found.choice.option)


def overrides(option: Option, config: ml_collections.ConfigDict) -> list[str]:
  """Returns what to add to the command line.

  Args:
    option: The choice.
    config: What is there without it.

  Returns:
    `--config.…=…`, one a setting that is to be changed.
  """
  wanted = config_lib.flatten(with_option(config, option))
  return [
    f"--config.{name}={wanted[name]}"
    for name, value in config_lib.flatten(config).items()
    if value != wanted[name]
  ]


def _search(config, rows, budget):
  """Compiles as training does."""
  network = create_network(config)
  state, batch = network.state, experiment.abstract_batch(config)
  update = steps.compile_update_step(
    steps.make_update_step(network.parts.optimizer), state
  )
  update_bytes = update.memory_analysis().temp_size_in_bytes

  def compile_option(option):
    parts = experiment.create_experiment(with_option(config, option))
    _, activations = steps.compile_gradient_step(
      parts.gradient_steps[option.method], state.params, batch
    )
    return activations, max(activations, update_bytes)

  held = {
    "parameters": tree_bytes(state.params),
    "their gradients": tree_bytes(state.params),
    "the optimizer": tree_bytes(state.opt_state),
    "the batch": tree_bytes(batch),
  }
  with jax.default_matmul_precision(config.matmul_precision):
    return search(rows, budget, held, compile_option)
