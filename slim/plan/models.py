"""A config's plan: its gradient in all ways, and with reversible layers."""

import functools
import logging
from collections.abc import Iterator
from typing import NamedTuple

import jax
import ml_collections

from slim import config as config_lib
from slim import experiment, metrics, steps
from slim.losses import cross_entropy_sums
from slim.plan.formula import Kept, activation_bytes, kept, tree_bytes
from slim.plan.options import Option, list_options, relative_time
from slim.plan.planning import Plan, Row, search
from slim.sizes import format_size, parse_size

_LOG = logging.getLogger("slim.plan")


class _Network(NamedTuple):
  """A model as a config has it, or with reversible layers where it has none."""

  config: ml_collections.ConfigDict
  parts: experiment.Experiment
  state: steps.TrainState  # Shapes.

  @property
  def options(self) -> Iterator[Option]:
    """The ways to differentiate it."""
    model, is_reversible = self.parts.model, self.config.model.reversible
    policies = []
    if jax.eval_shape(lambda: model.init_state(1)) is not None:
      policies = ["store", "sqrt"]
      if model.rewind is not None:
        policies.insert(0, "rewind")
    return list_options(
      self.config.data.sequence_length,
      policies=policies,
      remat=not is_reversible,
      reversible=is_reversible,
    )


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
  networks = [_create_network(config)]
  if not config.model.reversible and config.model.norm != "post":
    other = networks[0].config.copy_and_resolve_references()
    other.model.reversible = True
    networks.append(_create_network(other))
  rows = []
  for network in networks:
    formula = _make_formula(network)
    rows += [
      row._replace(formula_bytes=formula(row.option)) for row in _rows(network)
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
  found = _search(config, _rows(_create_network(config)), budget)
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


def with_option(
  config: ml_collections.ConfigDict, option: Option
) -> ml_collections.ConfigDict:
  """Returns settings with those of an option, and no budget.

  Args:
    config: All settings.
    option: What is chosen.

  Returns:
    All settings.
  """
  config = config.copy_and_resolve_references()
  config.model.reversible = option.reversible
  config.gradient.method = option.method
  config.gradient.memory_budget = None
  if option.method == "slim":
    config.gradient.policy = option.policy
    config.gradient.chunk_size = option.chunk_size
  return config


def _create_network(config):
  config_lib.validate(config)
  config = with_option(
    config, Option("full", None, None, config.model.reversible)
  )
  parts = experiment.create_experiment(config)
  state = jax.eval_shape(lambda: experiment.init(parts))
  return _Network(config, parts, state)


def _rows(network):
  """The options of a network with the time of each, the fastest first."""
  config, model = network.config, network.parts.model
  state = jax.eval_shape(lambda: model.init_state(config.train.batch_size))
  flops = metrics.count_matmul_flops(
    model.apply,
    network.state.params,
    experiment.abstract_batch(config).inputs,
    state,
  )
  rows = []
  for option in network.options:
    _, num_chunks = option.cut(config.data.sequence_length)
    time = relative_time(
      option,
      num_chunks=num_chunks * config.train.accumulation_steps,
      weight_bytes=tree_bytes(network.state.params),
      flops=flops,
    )
    rows.append(Row(option, time))
  return sorted(rows, key=lambda row: row.time)


def _make_formula(network):
  """Makes a function that counts the activations of an option."""
  config, model, params = (
    network.config,
    network.parts.model,
    network.state.params,
  )
  batch_size = config.train.batch_size // config.train.accumulation_steps
  other = config.copy_and_resolve_references()
  other.model.reversible = False
  plain = experiment.create_model(other)

  @functools.cache
  def count(model, size, remat=False):
    keys = jax.random.split(jax.random.key(0), batch_size)

    def loss(params, state, batch, keys):
      keys = keys if model.is_random else None
      logits, state = model.apply(
        params, batch.inputs, state, keys, remat=remat
      )
      sums = cross_entropy_sums(logits, batch.targets, batch.weights)
      return sums.nll, state

    state = jax.eval_shape(lambda: model.init_state(batch_size))
    batch = experiment.abstract_batch(config, batch_size, size)
    return kept(loss, params, state, batch, keys)

  def formula(option):
    size, num_chunks = option.cut(config.data.sequence_length)
    found = count(plain, size)
    if option.reversible or option.method == "remat":
      # What is not kept is there again for the layer that is computed anew.
      less = count(model, size, option.method == "remat")
      of_layer = found.total // config.model.num_layers
      found = Kept(less.total + of_layer, found.largest)
    state = jax.eval_shape(
      lambda: model.init_state(
        batch_size, compensated=option.policy == "rewind"
      )
    )
    return activation_bytes(
      option,
      kept=found,
      state_bytes=tree_bytes(state),
      sequence_bytes=tree_bytes(experiment.abstract_batch(config, batch_size)),
      num_chunks=num_chunks,
      params=params,
    )

  return formula


def _search(config, rows, budget):
  """Compiles as training does."""
  network = _create_network(config)
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
