"""Where a run starts or goes on, with what data, and what has changed."""

import logging
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from slim.runs.config_json import read_config
from slim.runs.fingerprints import check_data, fingerprint_data
from slim.runs.provenance import describe_process, list_changes
from slim.runs.restoring import restore_newest
from slim.runs.weights import load_initial_params
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
    ValueError: If `train.init_from` cannot be read, or does not fit.
  """
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
  changed: Sequence[str],
) -> tuple[TrainState, dict[str, Any]] | None:
  """Restores what a run needs to go on, and logs what has changed.

  Args:
    config: All settings.
    workdir: The folder of the run, which need not exist.
    abstract_state: The shapes and dtypes to expect.
    fingerprints: Those of the data, as it is now.
    changed: Names of settings that differ from those of the run and may.

  Returns:
    The state, and what `Progress.to_record` returned; None if nothing has been
    saved yet.

  Raises:
    ValueError: If no checkpoint can be read, or the data is another one.
  """
  restored = restore_newest(workdir, abstract_state)
  if restored is None:
    return None
  state, record = restored
  if not any(name.startswith("data.") for name in changed):
    if changed:  # A fingerprint depends on the seed, for instance.
      settings = read_config(workdir)
      with settings.unlocked():
        settings.data.path = config.data.path
      fingerprints = fingerprint_data(settings)
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
