"""Trains a model: `python -m slim.train --config=… --workdir=…`.

The same command again continues a run that was stopped, to the same numbers.
One device is used.
"""

import contextlib
import logging
import os

import jax
import ml_collections
import numpy as np
from absl import flags

from slim import command_line
from slim import config as config_lib
from slim.config import setting_flags
from slim.data import Dataset
from slim.files import check_folder, local_path
from slim.plan.from_config import fit_config
from slim.runs import (
  checkpoints as checkpoint,
)
from slim.runs import (
  metrics,
)
from slim.runs.profiler import Profiler
from slim.runs.progress import Progress
from slim.runs.workdir import (
  check_workdir,
  is_run,
  lock_workdir,
  read_config,
  write_config,
)
from slim.training import (
  build as experiment,
)
from slim.training import (
  steps,
)
from slim.training.compiled import compile_programs
from slim.types import Params, Sums

_LOG = logging.getLogger("slim.train")


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
  workdir = local_path("--workdir", workdir)
  check_folder("--workdir", workdir)
  with jax.default_matmul_precision(config.matmul_precision):
    return _train(config, workdir)


def _fit(config, workdir):
  """Chooses the gradient that fits; a run that is continued has chosen."""
  if not is_run(workdir):
    # It takes minutes, so what is wrong otherwise is found before.
    check_workdir(workdir, config)
    experiment.check_initial_params(config)
    return fit_config(config)
  config = config.copy_and_resolve_references()
  config.gradient = read_config(workdir).gradient
  return config


def _train(config, workdir):
  """Creates, restores and compiles, and only then writes and trains."""
  batch_size = config.train.batch_size
  train_data = experiment.create_split(config, "train", batch_size)
  validation_data = experiment.create_split(config, "validation", batch_size)
  if config.train.tensorboard:
    metrics.import_tensorboardx()  # If it is missing, nothing is written yet.
  if config.gradient.memory_budget is not None:
    config = _fit(config, workdir)
  parts = experiment.create_experiment(config)
  check_workdir(workdir, config)
  abstract_state = jax.eval_shape(lambda: experiment.init(parts))

  saved = checkpoint.list_steps(workdir)
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
  else:
    state = experiment.first_state(config, parts)
    window = Sums(0.0, 0.0, 0.0)
  start = int(state.step)
  _log_start(config, state.params, train_data)
  programs = compile_programs(
    config, parts, abstract_state, validation_data, start
  )

  with lock_workdir(workdir):
    if checkpoint.list_steps(workdir) != saved:
      raise ValueError(
        f"--workdir {workdir} has been trained by another process just now: "
        "the same command again continues from there"
      )
    write_config(workdir, config, train_data.description)
    if restored:
      checkpoint.set_aside_after(workdir, start)
    with (
      contextlib.closing(
        metrics.MetricsWriter(workdir, start, config.train.tensorboard)
      ) as writer,
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
      with contextlib.closing(
        Profiler(workdir, config.profile.steps, start, progress)
      ) as profiler:
        state = _loop(
          config, state, train_data, programs, progress, profiler, checkpointer
        )
  _LOG.info(
    "finished: checkpoint %s, metrics %s, config %s",
    os.path.join(workdir, "checkpoints", str(config.train.num_steps)),
    os.path.join(workdir, "metrics.jsonl"),
    os.path.join(workdir, "config.json"),
  )
  return state


def _loop(config, state, data, programs, progress, profiler, checkpointer):
  """Updates to the last step; evaluates, reports and saves on the way."""
  train = config.train
  for step in range(int(state.step), train.num_steps):
    gradient_step, activation_bytes = programs.gradient_steps[
      experiment.method_at(config, step)
    ]
    done = step + 1
    with profiler.step(done):
      batch = data.batch(step)
      sums, gradients = gradient_step(state.params, batch, np.int32(step))
      state, norm = programs.update_step(state, gradients, sums.weight)
      del gradients  # Or they would be held while the next ones are computed.
      progress.add(done, sums, norm, activation_bytes)

    last = done == train.num_steps
    evaluating = last or done % train.eval_every == 0
    saving = last or done % train.checkpoint_every == 0
    if not (evaluating or saving):
      continue
    progress.flush()  # What is not finite is neither evaluated nor saved.
    with progress.paused():
      if evaluating:
        progress.report_evaluation(done, programs.evaluate(state.params))
      if saving:
        facts = {
          "data_fingerprint": data.fingerprint,
          "window": list(progress.window),
        }
        checkpointer.save(state, facts)
  return state


def _log_start(
  config: ml_collections.ConfigDict, params: Params, data: Dataset
) -> None:
  """Logs what trains where, and on what."""
  device = jax.devices()[0]
  _LOG.info(
    "training on one of %d devices: %s, jax %s",
    jax.device_count(),
    device.device_kind,
    jax.__version__,
  )
  # The first bytes of a corpus, for instance, are not the benchmark.
  level = logging.INFO if data.name == config.data.name else logging.WARNING
  _LOG.log(level, "data: %s", data.description)
  _LOG.info("parameters:\n%s", metrics.parameter_table(params))


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  config = setting_flags.define_config()
  workdir = flags.DEFINE_string(
    "workdir", None, "Folder of the run.", required=True
  )
  command_line.run(
    lambda: train_and_evaluate(config.value, workdir.value), argv
  )


if __name__ == "__main__":
  main()
