"""Every setting at its default, from the declarations of their owners."""

from typing import Any

import ml_collections
from ml_collections import config_dict

from slim.config.run_settings import ProfileSettings, TopSettings, TrainSettings
from slim.data import DataSettings
from slim.models import list_model_settings
from slim.settings import Setting, list_settings
from slim.training.gradient_settings import GradientSettings
from slim.training.optimizers import OptimizerSettings

# The groups of settings that are dataclasses. The settings of `model` are those
# of several, see `slim.models.list_model_settings`.
GROUPS = {
  "": TopSettings,
  "data": DataSettings,
  "gradient": GradientSettings,
  "optimizer": OptimizerSettings,
  "train": TrainSettings,
  "profile": ProfileSettings,
}
_ORDER = ("", "model", "data", "gradient", "optimizer", "train", "profile")


def list_declarations() -> dict[str, Setting]:
  """Lists the declarations of all settings.

  Returns:
    By dotted name, for instance `{"seed": Setting(…), "model.width": …}`, in
    the order of their declaration.
  """
  found = {}
  for group in _ORDER:
    declarations = (
      _list_model_settings()
      if group == "model"
      else list_settings(GROUPS[group])
    )
    for declaration in declarations:
      name = f"{group}.{declaration.name}" if group else declaration.name
      found[name] = declaration
  return found


def base() -> ml_collections.ConfigDict:
  """Returns every setting at its default.

  A file in `configs/` calls this and changes what its experiment needs. The
  command line changes the rest with `--config.group.setting=value`.

  Returns:
    A new `ConfigDict`. `model.mlp_width` follows `model.width` until it is set.
  """
  config = ml_collections.ConfigDict()
  for name, declaration in list_declarations().items():
    group, _, last = name.rpartition(".")
    if group and group not in config:
      config[group] = ml_collections.ConfigDict()
    (config[group] if group else config)[last] = _default(declaration)
  width = config.model.get_oneway_ref("width")
  config.model.mlp_width = 4 * width
  return config


def _default(declaration: Setting) -> Any:
  """Returns the default; a None without a type could not be set by a flag."""
  if declaration.default is None:
    return config_dict.placeholder(declaration.kind)
  return declaration.default


def _list_model_settings() -> list[Setting]:
  """Lists the settings of models; a config trains in no float64."""
  return [
    declaration._replace(
      choices=tuple(x for x in declaration.choices if x != "float64")
    )
    for declaration in list_model_settings()
  ]
