"""What a run logs at its start."""

import logging

import jax
import ml_collections

from slim import config as config_lib
from slim.types import Params

_LOG = logging.getLogger("slim.train")


def log_start(
  config: ml_collections.ConfigDict, params: Params, data: str, is_named: bool
) -> None:
  """Logs the settings, the device, the data and the parameters of a run.

  Args:
    config: All settings.
    params: The parameters.
    data: The description of the training data.
    is_named: Whether the data is the whole corpus that `config.data.name`
      names. If not, the description is logged as a warning.
  """
  groups: dict[str, list[str]] = {}
  for name, value in config_lib.list_flags(config).items():
    group, _, last = name.rpartition(".")
    groups.setdefault(group, []).append(f"{last}={value}")
  for group, values in groups.items():
    _LOG.info("%s: %s", group, "  ".join(values))
  device = jax.devices()[0]
  _LOG.info(
    "training on one of %d devices: %s, jax %s",
    jax.device_count(),
    device.device_kind,
    jax.__version__,
  )
  _LOG.log(logging.INFO if is_named else logging.WARNING, "data: %s", data)
  _LOG.info("parameters:\n%s", parameter_table(params))


def parameter_table(params: Params) -> str:
  """Counts the parameters, in total and of each top-level module.

  Args:
    params: The parameters as nested dictionaries.

  Returns:
    Lines of text, the total last.
  """
  rows = {
    name: sum(x.size for x in jax.tree.leaves(module))
    for name, module in params.items()
  }
  rows["total"] = sum(rows.values())
  width = max(map(len, rows))
  return "\n".join(f"  {k:<{width}}  {n:>13,}" for k, n in rows.items())
