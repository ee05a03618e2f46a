"""All programs of a run, compiled before it writes anything."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections

from slim.data import Dataset
from slim.evaluate import sum_batches
from slim.runs import metrics
from slim.training import (
  build as experiment,
)
from slim.training import (
  steps,
)
from slim.types import Params


class Programs(NamedTuple):
  """The programs of a run; the evaluation compiles at its first call."""

  gradient_steps: dict[str, tuple[Callable[..., Any], int]]  # By method.
  update_step: Callable[..., Any]
  evaluate: Callable[[Params], dict[str, float]]
  flops_per_step: int  # Of the model: the same for every gradient method.


def compile_programs(
  config: ml_collections.ConfigDict,
  parts: experiment.Experiment,
  abstract_state: steps.TrainState,
  validation_data: Dataset,
  start: int,
) -> Programs:
  """Compiles all that the steps from `start` on need.

  Args:
    config: All settings.
    parts: The experiment of these settings.
    abstract_state: The shapes and dtypes of its state.
    validation_data: What is evaluated while training.
    start: Updates done so far.

  Returns:
    The programs.
  """
  shapes = jax.eval_shape(lambda: validation_data.batch(0))
  methods = {
    experiment.method_at(config, start),
    experiment.method_at(config, config.train.num_steps - 1),
  }
  initial_state = parts.model.init_state(config.train.batch_size)
  evaluation_step = jax.jit(steps.make_evaluation_step(parts.model))

  def evaluate(params):
    batches = validation_data.evaluation_batches()
    sums = sum_batches(
      evaluation_step,
      params,
      initial_state,
      itertools.islice(batches, config.train.eval_batches),
      chunk_size=experiment.evaluation_chunk(config),
      carry_state=False,
    )
    return metrics.means("eval", sums)

  return Programs(
    gradient_steps={
      method: steps.compile_gradient_step(
        parts.gradient_steps[method], abstract_state.params, shapes
      )
      for method in methods
    },
    update_step=steps.compile_update_step(
      steps.make_update_step(parts.optimizer), abstract_state
    ),
    evaluate=evaluate,
    # A backward pass costs two forward ones; recomputing is not counted.
    flops_per_step=3
    * metrics.count_matmul_flops(
      parts.model.apply, abstract_state.params, shapes.inputs, initial_state
    ),
  )
