"""One step of fine-tuning a trained language model, as in the SLiM paper.

The step of gradient descent minimizes the loss of the first half of a sequence.
Its score is the bits per byte of the second half.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from absl import flags
from configurations import load_config
from training_runs import train

from slim.runs.trained import load_run
from slim.training.evaluation import make_evaluation_step
from slim.types import Batch, LanguageModel, Params


class Pretrained(NamedTuple):
  """A trained model, and the settings it was trained with."""

  config: ml_collections.ConfigDict
  model: LanguageModel
  params: Params
  step: int
  commits: list[str | None]  # Of the code that trained it.


def define_run() -> flags.FlagHolder:
  """Defines `--run`, the folder of a trained run."""
  return flags.DEFINE_string("run", None, "Folder of the trained run.")


def trained_run(
  run: flags.FlagHolder, quick: flags.FlagHolder, workdir: pathlib.Path
) -> str:
  """Returns the folder of `--run`; a small run trains a small model of PTB.

  Args:
    run: As `define_run` returns it.
    quick: As `define_quick` returns it.
    workdir: Where to train the small model.

  Returns:
    The folder.

  Raises:
    ValueError: If there is no `--run`, and the run is not small.
  """
  if not quick.value and run.value is None:
    raise ValueError(
      "--run is missing: train with experiments/learning_curves.py, and pass "
      "the folder of a run, such as runs/learning_curves/ptb-full"
    )
  if not quick.value:
    return run.value
  config = load_config("ptb_slim", quick=True)
  config.train.num_steps = 40
  config.gradient.method = "full"
  train(config, workdir / "run")
  return str(workdir / "run")


def restore(run: str) -> Pretrained:
  """Restores the newest checkpoint, with validation at random offsets."""
  config, experiment, state, record = load_run(run, name="--run")
  commits = [x["git_commit"] for x in record["processes"]]
  with config.unlocked():
    config.data.order = "random"
  return Pretrained(
    config, experiment.model, state.params, int(state.step), commits
  )


def make_score(
  model: LanguageModel, chunk_size: int
) -> Callable[[Params, Batch], jax.Array]:
  """Makes `score(params, batch)`, the bits per byte of the second half."""
  evaluate = make_evaluation_step(model, chunk_size)

  def score(params, batch):
    half = batch.inputs.shape[1] // 2
    batch = batch._replace(weights=batch.weights.at[:, :half].set(0))
    sums, _ = evaluate(params, model.init_state(1), batch)
    return sums.nll.sum() / sums.weight.sum() / np.log(2)

  return score


def make_adaptation(
  value_and_grad: Callable, score: Callable
) -> Callable[[Params, Batch, jax.Array], jax.Array]:
  """Makes a step of gradient descent on the first half of a batch.

  Args:
    value_and_grad: The gradient, from `make_value_and_grad`.
    score: The bits of the second half, from `make_score`.

  Returns:
    `adapt(params, batch, learning_rates)`, the score after a step of each rate
    from the same weights.
  """

  def adapt(params, batch, learning_rates):
    sums, gradient = value_and_grad(params, first_half(batch))

    def after(learning_rate):
      stepped = jax.tree.map(
        lambda x, x_ct: x - learning_rate * x_ct / sums.weight, params, gradient
      )
      return score(stepped, batch)

    return jax.lax.map(after, learning_rates)

  return adapt


def first_half(batch: Batch) -> Batch:
  """Returns the first T // 2 tokens of a batch."""
  return jax.tree.map(lambda x: x[:, : x.shape[1] // 2], batch)
