"""A model, the ways to differentiate it, and what each should need."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections

from slim import config as config_lib
from slim.plan.memory_estimate import (
  Kept,
  activation_bytes,
  kept,
  tree_bytes,
)
from slim.plan.options import Option, list_options, relative_time
from slim.plan.search import Row
from slim.runs import metrics
from slim.training import (
  build as experiment,
)
from slim.training import (
  steps,
)
from slim.training.losses import cross_entropy_sums


class Network(NamedTuple):
  """What a config describes, to be differentiated plainly."""

  config: ml_collections.ConfigDict
  parts: experiment.Experiment
  state: steps.TrainState  # Shapes.


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


def create_network(config: ml_collections.ConfigDict) -> Network:
  """Creates the network of a config; nothing is computed.

  Args:
    config: All settings. Those of the gradient do not matter.

  Returns:
    The network.

  Raises:
    ValueError: If a setting does not fit.
  """
  config_lib.validate(config)
  config = with_option(
    config, Option("full", None, None, config.model.reversible)
  )
  parts = experiment.create_experiment(config)
  state = jax.eval_shape(lambda: experiment.init(parts))
  return Network(config, parts, state)


def timed_rows(network: Network) -> list[Row]:
  """Lists the ways to differentiate a network, the fastest first.

  Args:
    network: The network.

  Returns:
    Rows with predicted times.
  """
  config, model = network.config, network.parts.model
  policies = []
  if jax.eval_shape(lambda: model.init_state(1)) is not None:
    policies = ["store", "sqrt"]
    if model.rewind is not None:
      policies.insert(0, "rewind")
  state = jax.eval_shape(lambda: model.init_state(config.train.batch_size))
  flops = metrics.count_matmul_flops(
    model.apply,
    network.state.params,
    experiment.abstract_batch(config).inputs,
    state,
  )
  rows = []
  for option in list_options(
    config.data.sequence_length,
    policies=policies,
    remat=not config.model.reversible,
    reversible=config.model.reversible,
  ):
    _, num_chunks = option.cut(config.data.sequence_length)
    time = relative_time(
      option,
      num_chunks=num_chunks * config.train.accumulation_steps,
      weight_bytes=tree_bytes(network.state.params),
      flops=flops,
    )
    rows.append(Row(option, time))
  return sorted(rows, key=lambda row: row.time)


def make_formula(network: Network) -> Callable[[Option], int]:
  """Makes a function that counts activations without a compiler.

  Args:
    network: The network.

  Returns:
    The activations of an option, in bytes.
  """
  config, model = network.config, network.parts.model
  params = network.state.params
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
      # What is not kept is there for the part that is computed anew: a layer
      # or, of reversible ones, a sublayer.
      less = count(model, size, option.method == "remat")
      parts = config.model.num_layers * (1 + option.reversible)
      found = Kept(less.total + found.total // parts, found.largest)
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
