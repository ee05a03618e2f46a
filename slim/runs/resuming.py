"""Where a run starts or goes on, with what data, and what has changed."""

import logging
import os
from typing import Any

import jax
import ml_collections

from slim import config as config_lib
from slim.data import check_tokenizer
from slim.runs.checkpoints import RECORD
from slim.runs.config_json import parse_config, read_config
from slim.runs.fingerprints import check_data, fingerprint_data
from slim.runs.metrics import read_records
from slim.runs.provenance import describe_process, list_changes
from slim.runs.restoring import restore_newest
from slim.runs.weights import load_initial_params
from slim.runs.workdir import changed_settings
from slim.settings import prefix_setting_errors
from slim.training import build, devices, steps
from slim.types import TrainState

_LOG = logging.getLogger("slim.train")


def init_state(
  config: ml_collections.ConfigDict,
  experiment: build.Experiment,
  abstract_state: TrainState,
) -> TrainState:
  """Computes the state before the first update of a run.

  Args:
    config: All settings.
    experiment: The experiment of these settings.
    abstract_state: The shapes of its state, and the shardings on a mesh.

  Returns:
    The state.

  Raises:
    ValueError: If `train.init_from` or `data.tokenizer` cannot be read, or does
      not fit.
  """
  with prefix_setting_errors("config.data."):
    check_tokenizer(config.data.tokenizer, config.data.vocab_size)
  params = load_initial_params(config, experiment.model)
  shardings = devices.shardings_of(abstract_state)
  if params is None:
    init = jax.jit(lambda: build.init(experiment), out_shardings=shardings)
    return init()
  if shardings is None:
    return steps.init_train_state(params, experiment.optimizer)
  # Each process takes its parts from the host: it has all of the weights.
  params = jax.tree.map(
    lambda x, sharding: jax.make_array_from_callback(
      x.shape, sharding, lambda index: x[index]
    ),
    jax.device_get(params),
    shardings.params,
  )
  init = jax.jit(
    lambda params: steps.init_train_state(params, experiment.optimizer),
    out_shardings=shardings,
  )
  return init(params)


def resume(
  config: ml_collections.ConfigDict,
  workdir: str,
  abstract_state: TrainState,
  fingerprints: dict[str, str],
) -> tuple[TrainState, dict[str, Any]] | None:
  """Restores what a run needs to go on, and logs what has changed.

  A run may have stopped after a change of its settings and before a checkpoint
  with them, so this compares with the settings of the checkpoint.

  Args:
    config: All settings.
    workdir: The folder of the run, which need not exist.
    abstract_state: The shapes and dtypes to expect.
    fingerprints: Those of the data, as it is now.

  Returns:
    The state, and what `Progress.to_record` returned; None if nothing has been
    saved yet.

  Raises:
    ValueError: If no checkpoint can be read, all have been removed, or the data
      is another one.
  """
  restored = restore_newest(workdir, abstract_state)
  if restored is None:
    _check_checkpoints_remain(workdir)
    return None
  state, record = restored
  before = parse_config(record, RECORD)
  changed = changed_settings(before, config)
  if not any(name.startswith("data.") for name in changed):
    if changed:  # A fingerprint depends on the seed, for instance.
      fingerprints = fingerprint_data(
        config_lib.with_data_paths(before, config)
      )
    check_data(
      config,
      workdir,
      record["fingerprints"],
      fingerprints,
      advice="choose another --workdir",
    )
  if state.step < config.train.num_steps:
    changes = list_changes(record["processes"][-1], describe_process())
    changes += [f"config.{name}" for name in changed]
    _LOG.info(
      "continuing from the checkpoint of step %d%s",
      int(state.step),
      f"; changed since then: {', '.join(changes)}" if changes else "",
    )
  return state, record["progress"]


def _check_checkpoints_remain(workdir):
  """Raises if a run without checkpoints must have had some."""
  path = os.path.join(workdir, "metrics.jsonl")
  records = read_records(path) if os.path.exists(path) else []
  last = max((record["step"] for record in records), default=0)
  # The first checkpoint is on the disk before the second one is begun.
  if last and last > 2 * read_config(workdir).train.checkpoint_every:
    raise ValueError(
      f"--workdir {workdir} has metrics up to step {last} and no checkpoint: "
      "restore its checkpoints, choose another --workdir, or remove "
      "metrics.jsonl to train again"
    )
