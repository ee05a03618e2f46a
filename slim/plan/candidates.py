"""A model, the ways to differentiate it, and what each should need."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections

from slim.plan.memory_estimate import (
  Kept,
  activation_bytes,
  kept,
  tree_bytes,
)
from slim.plan.options import Option, list_options, relative_time
from slim.plan.search import Row
from slim.training import build
from slim.training.flops import count_matmul_flops
from slim.training.losses import cross_entropy_sums
from slim.types import TrainState


class PlannedModel(NamedTuple):
  """A model to be differentiated in one of several ways.

  Attributes:
    config: All settings, with `gradient.method` "full".
    experiment: The experiment of these settings.
    state: The shapes of its state.
  """

  config: ml_collections.ConfigDict
  experiment: build.Experiment
  state: TrainState


def with_option(
  config: ml_collections.ConfigDict, option: Option
) -> ml_collections.ConfigDict:
  """Returns settings with those of an option, and without a budget.

  Args:
    config: All settings.
    option: The option.

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


def create_planned_model(config: ml_collections.ConfigDict) -> PlannedModel:
  """Creates the model of a config; nothing is computed.

  Args:
    config: All settings. Those of the gradient do not matter.

  Returns:
    The model.

  Raises:
    SettingError: If a setting does not fit.
  """
  full = Option("full", None, None, config.model.reversible)
  config = with_option(config, full)
  experiment = build.create_experiment(config)
  state = jax.eval_shape(lambda: build.init(experiment))
  return PlannedModel(config, experiment, state)


def timed_rows(planned: PlannedModel) -> list[Row]:
  """Lists the ways to differentiate a model, the fastest first.

  Args:
    planned: The model.

  Returns:
    Rows with predicted times.
  """
  config, model = planned.config, planned.experiment.model
  policies = []
  if model.state_kind == "fixed":
    policies = ["store", "sqrt"]
    if model.rewind is not None:
      policies.insert(0, "rewind")
  state = jax.eval_shape(lambda: model.init_state(config.train.batch_size))
  flops = count_matmul_flops(
    model.apply,
    planned.state.params,
    build.abstract_batch(config).inputs,
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
      weight_bytes=tree_bytes(planned.state.params),
      flops=flops,
    )
    rows.append(Row(option, time))
  return sorted(rows, key=lambda row: row.time)


def make_formula(planned: PlannedModel) -> Callable[[Option], int]:
  """Makes a function that estimates activations without compiling.

  Args:
    planned: The model.

  Returns:
    The activations of an option, in bytes.
  """
  config, model = planned.config, planned.experiment.model
  params = planned.state.params
  batch_size = config.train.batch_size // config.train.accumulation_steps
  plain = model
  if config.model.reversible:
    other = config.copy_and_resolve_references()
    other.model.reversible = False
    plain = build.create_model(other)

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
    batch = build.abstract_batch(config, batch_size, size)
    return kept(loss, params, state, batch, keys)

  def formula(option):
    size, num_chunks = option.cut(config.data.sequence_length)
    found = count(plain, size)
    if option.reversible or option.method == "remat":
      # The backward pass recomputes a layer or, of reversible layers, a
      # sublayer at a time. Its residuals are live besides the kept ones.
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
      sequence_bytes=tree_bytes(build.abstract_batch(config, batch_size)),
      num_chunks=num_chunks,
      params=params,
    )

  return formula
