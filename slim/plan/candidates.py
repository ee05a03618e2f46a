"""List the candidates of a config, with predicted times and estimates."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.kernels.support.cotangents import inexact_leaves
from slim.kernels.support.random_bits import split
from slim.plan.gradient_choice import GradientChoice, list_choices
from slim.plan.memory_estimate import (
  Residuals,
  count_residuals,
  estimate_activations,
)
from slim.plan.results import Candidate
from slim.plan.time_estimate import estimate_time
from slim.targets import HERE, Target
from slim.targets.matrix_products import MatrixProduct, list_matrix_products
from slim.training import build, devices, shapes
from slim.training.gradients import max_tokens_of, supported_policies
from slim.training.losses import cross_entropy_sums
from slim.training.shapes import tree_bytes
from slim.types import LanguageModel, TrainState


class PlannedModel(NamedTuple):
  """A model to be differentiated in one of several ways.

  Attributes:
    config: All settings, with `gradient.method` "full".
    experiment: The experiment of these settings.
    state: The shapes of its state.
    num_rows: Sequences that a device processes at once.
    num_tokens: Tokens of each that it has.
  """

  config: ml_collections.ConfigDict
  experiment: build.Experiment
  state: TrainState
  num_rows: int
  num_tokens: int


def with_choice(
  config: ml_collections.ConfigDict, choice: GradientChoice
) -> ml_collections.ConfigDict:
  """Returns a copy of the settings with a chosen gradient and no budget.

  Args:
    config: All settings.
    choice: How to compute the gradient.

  Returns:
    All settings.
  """
  config = config.copy_and_resolve_references()
  config.model.reversible = choice.reversible
  config.gradient.method = choice.method
  config.gradient.memory_budget = None
  if choice.method == "slim":
    config.gradient.policy = choice.policy
    config.gradient.chunk_size = choice.chunk_size
  return config


def create_planned_model(
  config: ml_collections.ConfigDict, mesh: Mesh | None = None
) -> PlannedModel:
  """Creates the model of a config; nothing is computed.

  Args:
    config: All settings. Those of the gradient do not matter.
    mesh: The devices; None: one.

  Returns:
    The model.

  Raises:
    SettingError: If a setting does not fit.
  """
  full = GradientChoice("full", None, None, config.model.reversible)
  config = with_choice(config, full)
  experiment = build.create_experiment(config, mesh)
  inputs = devices.abstract_batch(config, experiment).inputs
  num_rows, num_tokens = shapes.shape_of_device(inputs)
  return PlannedModel(
    config,
    experiment,
    shapes.abstract_state(experiment),
    num_rows // config.train.accumulation_steps,
    num_tokens,
  )


def list_candidates(
  planned: PlannedModel, target: Target = HERE
) -> list[Candidate]:
  """Lists the ways to differentiate a model, the fastest first.

  Args:
    planned: The model.
    target: What computes its gradient.

  Returns:
    Candidates with predicted times.
  """
  config, model = planned.config, planned.experiment.model
  num_rows = planned.num_rows
  state = _init_state(planned, model)
  policies = supported_policies(
    build.model_of_device(config, model, planned.experiment.mesh)
  )
  undone = KeptLeaves.of(model.kept, state).others(state)
  if not inexact_leaves(undone):  # At most the position is undone.
    policies = tuple(x for x in policies if x != "rewind")

  @functools.cache
  def products(chunk_size: int) -> list[MatrixProduct]:
    tokens = shapes.abstract_batch(config, num_rows, chunk_size).inputs
    with jax.default_matmul_precision(config.matmul_precision):
      return list_matrix_products(
        model.apply, planned.state.params, tokens, state
      )

  candidates = []
  for choice in list_choices(
    planned.num_tokens,
    policies=policies,
    remat=not config.model.reversible,
    reversible=config.model.reversible,
  ):
    time = estimate_time(
      choice,
      length=planned.num_tokens,
      products=products,
      weight_bytes=tree_bytes(planned.state.params),
      target=target,
      num_parts=config.train.accumulation_steps,
    )
    candidates.append(Candidate(choice, time))
  return sorted(candidates, key=lambda x: x.time.relative)


def make_estimator(planned: PlannedModel) -> Callable[[GradientChoice], int]:
  """Makes a function that estimates activations without compiling.

  Args:
    planned: The model.

  Returns:
    `estimate(choice)`, the activations in bytes.
  """
  config, model = planned.config, planned.experiment.model
  params = planned.state.params
  num_rows, num_tokens = planned.num_rows, planned.num_tokens
  not_reversible = model
  if config.model.reversible:
    other = config.copy_and_resolve_references()
    other.model.reversible = False
    not_reversible = build.create_model(other)

  @functools.cache
  def count(
    model: LanguageModel, length: int, remat: bool = False, slim: bool = False
  ) -> Residuals:
    keys = split(jax.random.key(0), num_rows)

    def loss(params, state, batch, keys):
      keys = keys if model.is_random else None
      logits, state = model.apply(
        params, batch.inputs, state, keys, remat=remat
      )
      sums = cross_entropy_sums(logits, batch.targets, batch.weights)
      return sums.nll, state

    state = _init_state(planned, model, whole=not slim)
    batch = shapes.abstract_batch(config, num_rows, length)
    return count_residuals(loss, params, state, batch, keys)

  def estimate(choice: GradientChoice) -> int:
    chunk_size, num_chunks = choice.cut(num_tokens)
    slim = choice.method == "slim"
    residuals = count(not_reversible, chunk_size, slim=slim)
    if choice.reversible or choice.method == "remat":
      # The backward pass recomputes one layer at a time, or one sublayer if
      # layers are reversible. Its residuals add to the stored ones.
      remat = choice.method == "remat"
      stored = count(model, chunk_size, remat=remat, slim=slim)
      num_parts = config.model.num_layers * (1 + choice.reversible)
      total = stored.total_bytes + residuals.total_bytes // num_parts
      residuals = residuals._replace(total_bytes=total)
    state = _init_state(planned, model, compensated=choice.policy == "rewind")
    kept = KeptLeaves.of(model.kept, state).select(state) if slim else []
    return estimate_activations(
      choice,
      residuals=residuals,
      state_bytes=tree_bytes(state),
      kept_bytes=tree_bytes(kept),
      sequence_bytes=tree_bytes(
        shapes.abstract_batch(config, num_rows, num_tokens)
      ),
      num_chunks=num_chunks,
      params=params,
      by_scan=False,
    )

  return estimate


def _init_state(planned, model, *, whole=False, **settings):
  """Shapes of the state before the first token; `whole`: of no chunks."""
  if not whole:
    settings["max_tokens"] = max_tokens_of(model, planned.num_tokens)
  return jax.eval_shape(lambda: model.init_state(planned.num_rows, **settings))
