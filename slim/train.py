"""Trains a model: `python -m slim.train --config=… --workdir=…`.

The same command again continues a run that was stopped, to the same numbers.
All devices are used, see `config.mesh`.
"""

import contextlib
import logging
import math
import os
from collections.abc import Sequence

import jax
import ml_collections

from slim import command_line
from slim import config as config_lib
from slim.plan.fits import check_state_fits, check_steps_fit
from slim.plan.resolve import resolve_gradient
from slim.runs import checkpoints, metrics
from slim.runs.best import Best
from slim.runs.compilation_cache import use_cache
from slim.runs.config_json import write_config
from slim.runs.fingerprints import fingerprint_data
from slim.runs.interruptions import Interruptions
from slim.runs.log_file import LogFile
from slim.runs.loop import Loop
from slim.runs.profiler import Profiler
from slim.runs.progress import Progress
from slim.runs.provenance import describe_process
from slim.runs.resuming import init_state, resume
from slim.runs.stages import stage
from slim.runs.start_log import log_start
from slim.runs.train_flags import define_flags
from slim.runs.workdir import check_workdir, find_workdir, lock_workdir
from slim.scale import processes
from slim.training import build, devices, shapes
from slim.training.compiled import compile_steps
from slim.types import TrainState

_LOG = logging.getLogger("slim.train")


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str,
  allow_change: Sequence[str] = (),
) -> TrainState:
  """Trains to the last step, from the newest checkpoint if there is one.

  Args:
    config: All settings, as from `slim.config.base`.
    workdir: Folder of the run: config.json, metrics.jsonl, checkpoints.
    allow_change: Names of settings, as in "train.num_steps", in which a run
      that is continued may differ from what it was.

  Returns:
    The state after the last step, or after the one at which a signal,
    `train.max_minutes` or `train.patience` ended the run. The same call
    continues from there, except after `train.patience`.

  Raises:
    ValueError: If a setting, the data or the workdir does not fit. Nothing has
      been written then.
    FloatingPointError: If the loss or the gradient is not finite.
  """
  config_lib.validate(config)
  for name in allow_change:
    if name not in config_lib.flatten(config):
      raise ValueError(f"--allow_change: {config_lib.unknown_setting(name)}")
  workdir = find_workdir(workdir)
  with (
    jax.default_matmul_precision(config.matmul_precision),
    LogFile() as log_file,
    Interruptions(config.train.max_minutes) as interruptions,
  ):
    return _train(config, workdir, allow_change, log_file, interruptions)


def _train(config, workdir, allow_change, log_file, interruptions):
  """Prepares a run, trains it, and logs its end.

  Nothing is written before all checks have passed.
  """
  train_data, validation_data = (
    build.create_split(config, split, config.train.batch_size)
    for split in ("train", "validation")
  )
  if config.train.tensorboard:
    metrics.import_tensorboardx()  # If it is missing, nothing is written yet.
  fingerprints = fingerprint_data(config)
  config, experiment, compiled = resolve_gradient(config, workdir)
  # Before anything that processes do together.
  processes.check_equal(
    config=config_lib.without_data_paths(config),
    data=str(fingerprints),
    versions=str(describe_process()["versions"]),
  )
  check_workdir(workdir, config, allow_change)
  abstract_state = shapes.abstract_state(experiment)

  saved = checkpoints.list_steps(workdir)
  check_state_fits(abstract_state)
  restored = resume(config, workdir, abstract_state, fingerprints)
  if restored is None:
    state, stored = init_state(config, experiment, abstract_state), None
  else:
    state, stored = restored
    if state.step >= config.train.num_steps:
      _LOG.info("already finished at step %d: nothing to do", int(state.step))
      return state
  start = int(state.step)
  last_record = stored["last_record"] if stored else 0
  records = metrics.read_run(workdir, start, last_record)
  best = Best(config.train.keep_best or "eval/loss", records)
  if best.since >= (config.train.patience or math.inf):
    _LOG.info("already ended by config.train.patience: nothing to do")
    return state
  log_start(
    config,
    state.params,
    train_data.description,
    is_named=train_data.name == config.data.name,
    mesh=experiment.mesh,
  )
  if compiled is None:
    with stage("compiling"):
      compiled = compile_steps(config, experiment, abstract_state, start)
  batch = devices.abstract_batch(config, experiment)
  check_steps_fit(abstract_state, batch, compiled)
  evaluate = devices.create_evaluation(config, experiment, validation_data)

  if interruptions.reason is not None and not processes.are_many():
    _LOG.info("%s: ended before the first step", interruptions.reason)
    return state

  with processes.folder_to_write(workdir) as own, lock_workdir(own):
    if processes.is_first() and checkpoints.list_steps(workdir) != saved:
      raise ValueError(
        f"--workdir {workdir} has been trained by another process just now: "
        "the same command again continues from there"
      )
    log_file.open(os.path.join(own, "log.txt"))
    record = write_config(own, config, train_data.description, start)
    record["fingerprints"] = fingerprints
    if restored is not None and processes.is_first():
      checkpoints.set_aside_after(workdir, start)
    with (
      contextlib.closing(
        metrics.MetricsWriter(own, start, config.train.tensorboard)
      ) as writer,
      checkpoints.Checkpointer(
        workdir, config.train.keep_checkpoints
      ) as checkpointer,
    ):
      progress = _make_progress(config, experiment, writer, start, stored)
      with contextlib.closing(
        Profiler(own, config.profile.steps, start, progress)
      ) as profiler:
        loop = Loop(
          config=config,
          data=train_data,
          compiled=compiled,
          evaluate=evaluate,
          progress=progress,
          profiler=profiler,
          writer=writer,
          checkpointer=checkpointer,
          record=record,
          interruptions=interruptions,
          best=best,
          ending=processes.Ending(),
          evaluates_first=stored is not None and stored["evaluates_first"],
        )
        state = loop.run(state)
  processes.wait_for_all("the last checkpoint")
  _log_end(config, workdir, state, interruptions.reason)
  return state


def _make_progress(config, experiment, writer, start, stored):
  """Makes the reports of a run that continues from step `start`."""
  train = config.train
  return Progress(
    writer,
    step=start,
    num_steps=train.num_steps,
    log_every=train.log_every,
    tokens_per_step=train.batch_size * config.data.sequence_length,
    flops_per_step=shapes.count_flops(config, experiment.model),
    learning_rate=build.create_schedule(config),
    pauses={"evaluation": train.eval_every, "save": train.checkpoint_every},
    skip_above=build.skip_above(config),
    max_skipped=train.max_skipped,
    stored=stored,
  )


def _log_end(config, workdir, state, reason):
  """Logs after which step a run ended, and its files if it was the last."""
  if state.step < config.train.num_steps:
    _LOG.info("%s: saved after step %d", reason, state.step)
    return
  _LOG.info(
    "finished: checkpoint %s, metrics %s, config %s",
    os.path.join(workdir, "checkpoints", str(config.train.num_steps)),
    os.path.join(workdir, "metrics.jsonl"),
    os.path.join(workdir, "config.json"),
  )


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  found = define_flags()

  def train():
    use_cache(found.compilation_cache.value)
    if found.print_config.value:
      config_lib.validate(found.config.value)
      for name, value in config_lib.list_flags(found.config.value).items():
        print(f"--{name}={value}")
    elif found.workdir.value is None:
      raise ValueError("--workdir is missing: Folder of the run.")
    else:
      train_and_evaluate(
        found.config.value, found.workdir.value, found.allow_change.value
      )

  command_line.run(
    train,
    argv,
    choose_device=lambda: processes.connect(found.processes.value),
    end=processes.end,
  )


if __name__ == "__main__":
  main()
