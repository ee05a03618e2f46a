"""Trains a model: `python -m slim.train --config=… --workdir=…`.

The same command again continues a run that was stopped, to the same numbers.
One device is used.
"""

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from slim import checkpoint, command_line, experiment, metrics, steps
from slim import config as config_lib
from slim.data import Dataset
from slim.evaluate import sum_batches
from slim.progress import Progress
from slim.types import Params, Sums
from slim.workdir import check_workdir, write_config

_LOG = logging.getLogger("slim.train")


class _Programs(NamedTuple):
  """The programs of a run; the evaluation compiles at its first call."""

  gradient_steps: dict[str, tuple[Callable[..., Any], int]]  # By method.
  update_step: Callable[..., Any]
  evaluate: Callable[[Params], dict[str, float]]
  flops_per_step: int  # Of the model: the same for every gradient method.


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str
) -> steps.TrainState:
  """Trains to the last step, from the newest checkpoint if there is one.

  Args:
    config: Settings as `slim.config.base` has them.
    workdir: The working directory: config.json, metrics.jsonl, checkpoints.

  Returns:
    The state after the last step.

  Raises:
    ValueError: If a setting, the data or the workdir does not fit; before that
      nothing has been written.
    FloatingPointError: If the loss or the gradient is no finite number.
  """
  config_lib.validate(config)
  with jax.default_matmul_precision(config.matmul_precision):
    return _train(config, workdir)


def _train(config, workdir):
  """Creates, restores and compiles, and only then writes and trains."""
  batch_size = config.train.batch_size
  train_data = experiment.create_split(config, "train", batch_size)
  validation_data = experiment.create_split(config, "validation", batch_size)
  parts = experiment.create_experiment(config)
  check_workdir(workdir, config)
  init = functools.partial(experiment.init, parts)
  abstract_state = jax.eval_shape(init)
  _log_start(abstract_state.params, train_data)

  state, window = None, Sums(0.0, 0.0, 0.0)
  restored = checkpoint.restore_newest(workdir, abstract_state)
  if restored:
    state, facts = restored
    window = Sums(*facts["window"])
    if facts["data_fingerprint"] != train_data.fingerprint:
      raise ValueError(
        f"config.data.path: the data is not what the run in {workdir} was "
        "trained on: restore the file or choose another --workdir"
      )
    if state.step >= config.train.num_steps:
      _LOG.info("already finished at step %d: nothing to do", int(state.step))
      return state
    _LOG.info("continuing from the checkpoint of step %d", int(state.step))
  start = int(state.step) if state else 0
  programs = _compile(config, parts, abstract_state, validation_data, start)
  state = state or jax.jit(init)()

  write_config(workdir, config, train_data.description)
  if restored:
    checkpoint.set_aside_after(workdir, start)
  with (
    contextlib.closing(metrics.MetricsWriter(workdir, start)) as writer,
    contextlib.closing(
      checkpoint.Checkpointer(workdir, config.train.keep_checkpoints)
    ) as checkpointer,
  ):
    progress = Progress(
      writer,
      step=start,
      num_steps=config.train.num_steps,
      log_every=config.train.log_every,
      tokens_per_step=batch_size * config.data.sequence_length,
      flops_per_step=programs.flops_per_step,
      window=window,
    )
    state = _loop(
      config, state, train_data, programs, progress, writer, checkpointer
    )
  _LOG.info(
    "finished: checkpoint %s, metrics %s, config %s",
    os.path.join(workdir, "checkpoints", str(config.train.num_steps)),
    os.path.join(workdir, "metrics.jsonl"),
    os.path.join(workdir, "config.json"),
  )
  return state


def _loop(config, state, data, programs, progress, writer, checkpointer):
  """Updates to the last step; evaluates, reports and saves on the way."""
  train = config.train
  for step in range(int(state.step), train.num_steps):
    gradient_step, activation_bytes = programs.gradient_steps[
      experiment.method_at(config, step)
    ]
    batch = data.batch(step)
    sums, gradients = gradient_step(state.params, batch, np.int32(step))
    state, norm = programs.update_step(state, gradients, sums.weight)
    del gradients  # Or they would be held while the next ones are computed.
    done = step + 1
    progress.add(done, sums, norm, activation_bytes)

    last = done == train.num_steps
    evaluating = last or done % train.eval_every == 0
    saving = last or done % train.checkpoint_every == 0
    if not (evaluating or saving):
      continue
    progress.flush()  # What is not finite is neither evaluated nor saved.
    with progress.paused():
      if evaluating:
        values = programs.evaluate(state.params)
        writer.write(done, values)
        _LOG.info(
          "step %d/%d  validation loss %.4f  bpc %.4f  accuracy %.2f %%",
          done,
          train.num_steps,
          values["eval/loss"],
          values["eval/bpc"],
          100 * values["eval/accuracy"],
        )
      if saving:
        facts = {
          "data_fingerprint": data.fingerprint,
          "window": list(progress.window),
        }
        checkpointer.save(state, facts)
  return state


def _compile(
  config: ml_collections.ConfigDict,
  parts: experiment.Experiment,
  abstract_state: steps.TrainState,
  validation_data: Dataset,
  start: int,
) -> _Programs:
  """Compiles all that the steps from `start` on need."""
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

  return _Programs(
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


def _log_start(params: Params, data: Dataset) -> None:
  """Logs what trains where, and on what."""
  device = jax.devices()[0]
  _LOG.info(
    "training on one of %d devices: %s, jax %s",
    jax.device_count(),
    device.device_kind,
    jax.__version__,
  )
  _LOG.info("data: %s", data.description)
  _LOG.info("parameters:\n%s", metrics.parameter_table(params))


def main() -> None:
  """Runs the command line."""
  config = config_flags.DEFINE_config_file("config", None, "File in configs/.")
  workdir = flags.DEFINE_string("workdir", None, "Folder of the run.")
  flags.mark_flags_as_required(["config", "workdir"])
  command_line.run(lambda: train_and_evaluate(config.value, workdir.value))


if __name__ == "__main__":
  main()
