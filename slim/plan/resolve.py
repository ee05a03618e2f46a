"""The gradient of a run, if a memory budget chooses it."""

import logging

import ml_collections

from slim.plan.from_config import fit_config
from slim.runs.config_json import is_run, read_config
from slim.runs.weights import load_initial_params
from slim.runs.workdir import check_workdir
from slim.training import build, devices
from slim.training.compiled import CompiledSteps

_LOG = logging.getLogger("slim.train")


def resolve_gradient(
  config: ml_collections.ConfigDict, workdir: str
) -> tuple[ml_collections.ConfigDict, build.Experiment, CompiledSteps | None]:
  """Replaces `gradient.memory_budget` by a gradient that fits it.

  A run that is continued keeps its gradient, and the log says so.

  Args:
    config: All settings.
    workdir: Folder of the run.

  Returns:
    The settings without a budget, the experiment they describe, and its
    compiled steps if the choice has compiled them.

  Raises:
    ValueError: If no gradient fits, or the workdir or `train.init_from` is not
      usable. The latter are checked first, because a choice takes minutes.
  """
  mesh = devices.create_mesh(config)
  if config.gradient.memory_budget is not None and not is_run(workdir):
    check_workdir(workdir, config)
    load_initial_params(config, build.create_model(config))
    return fit_config(config)
  if config.gradient.memory_budget is not None:
    config = config.copy_and_resolve_references()
    config.gradient = read_config(workdir).gradient
    _LOG.info(
      "config.gradient.memory_budget chooses nothing: the run in %s keeps its "
      "gradient",
      workdir,
    )
  return config, build.create_experiment(config, mesh), None
