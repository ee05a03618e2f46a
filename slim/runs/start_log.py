"""What a run logs at its start."""

import logging

import jax
import ml_collections
from jax.sharding import Mesh

from slim import config as config_lib
from slim.types import Params

_LOG = logging.getLogger("slim.train")


def log_start(
  config: ml_collections.ConfigDict,
  params: Params,
  data: str,
  is_named: bool,
  mesh: Mesh | None = None,
) -> None:
  """Logs the settings, the device, the data and the parameters of a run.

  Args:
    config: All settings.
    params: The parameters.
    data: The description of the training data.
    is_named: Whether the data is the whole corpus that `config.data.name`
      names. If not, the description is logged as a warning.
    mesh: The devices; None: one.
  """
  groups: dict[str, list[str]] = {}
  for name, value in config_lib.list_flags(config).items():
    group, _, last = name.rpartition(".")
    groups.setdefault(group, []).append(f"{last}={value}")
  for group, values in groups.items():
    _LOG.info("%s: %s", group, "  ".join(values))
  used = "one" if mesh is None else str(mesh.size)
  _LOG.info(
    "training on %s of %d devices%s: %s, jax %s",
    used,
    jax.device_count(),
    f" in {jax.process_count()} processes" if jax.process_count() > 1 else "",
    jax.devices()[0].device_kind,
    jax.__version__,
  )
  if mesh is not None:
    sizes = "  ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    _LOG.info("mesh: %s", sizes)
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
