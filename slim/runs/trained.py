"""A run that has been trained: its settings, its model and its weights."""

from typing import Any, NamedTuple

import jax
import ml_collections

from slim import config as config_lib
from slim.files import local_path
from slim.runs.choosing import choose_step
from slim.runs.config_json import read_config
from slim.runs.restoring import find_checkpoint, restore
from slim.training import build
from slim.types import TrainState


class Trained(NamedTuple):
  """A run, or a checkpoint of it.

  Attributes:
    config: All settings, with the newest location of the data.
    experiment: What they describe.
    state: The restored state.
    record: What the checkpoint says about the run.
  """

  config: ml_collections.ConfigDict
  experiment: build.Experiment
  state: TrainState
  record: dict[str, Any]


def load_run(
  workdir: str, step: str = "latest", name: str = "--workdir"
) -> Trained:
  """Loads a checkpoint of a run.

  Args:
    workdir: The folder of the run, or of one checkpoint alone.
    step: "latest", the newest that is readable; "best"; or a step.
    name: The flag or setting that names it, for errors.

  Returns:
    The run.

  Raises:
    ValueError: If there is no checkpoint, or none can be read.
  """
  workdir = local_path(name, workdir)
  newest = read_config(workdir, name)
  folder = find_checkpoint(
    workdir, step=choose_step(workdir, newest, step), name=name
  )
  # Settings may have changed since then.
  config = config_lib.with_data_paths(read_config(folder, name), newest)
  experiment = build.create_experiment(config)
  abstract_state = jax.eval_shape(lambda: build.init(experiment))
  state, record = restore(folder, abstract_state)
  return Trained(config, experiment, state, record)
