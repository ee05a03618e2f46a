"""The dotted names of settings, and hints for names that do not exist."""

import difflib
from typing import Any

import ml_collections

from slim.config.defaults import base, list_declarations
from slim.settings import SettingError


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the settings by their dotted names, in alphabetical order.

  Args:
    config: Settings, or a group of settings.

  Returns:
    For instance `{"data.name": "copying", …, "seed": 0, …}`.
  """
  flat = {}
  for name in config:
    value = config[name]
    if isinstance(value, ml_collections.ConfigDict):
      flat.update({f"{name}.{k}": v for k, v in flatten(value).items()})
    else:
      flat[name] = value
  return flat


def list_flags(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Lists the flags that set all settings, in the order of the declarations.

  Args:
    config: Settings.

  Returns:
    For instance {"config.seed": "0", …, "config.profile.steps": "10,20"}.
  """
  flat = flatten(config)

  def text(value):
    if isinstance(value, tuple | list):
      return ",".join(map(str, value)) or "()"
    return str(value)

  return {f"config.{name}": text(flat[name]) for name in list_declarations()}


def list_data_paths() -> list[str]:
  """Lists the dotted names of the settings that say where data is."""
  return [
    name
    for name, declaration in list_declarations().items()
    if name.startswith("data.") and declaration.is_path
  ]


def with_data_paths(
  config: ml_collections.ConfigDict, source: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Copies settings, with the locations of the data of others.

  Args:
    config: Settings.
    source: Other settings, whose data is the same in another place.

  Returns:
    A copy.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    for name in list_data_paths():
      config.data[name.removeprefix("data.")] = flatten(source)[name]
  return config


def without_data_paths(config: ml_collections.ConfigDict) -> str:
  """Writes the settings that are the same on all machines, one on a line.

  Args:
    config: Settings.

  Returns:
    Lines of NAME=VALUE, without the location of the data.
  """
  paths = list_data_paths()
  return "\n".join(
    f"{name}={value}"
    for name, value in list_flags(config).items()
    if name.removeprefix("config.") not in paths
  )


def differences(
  a: ml_collections.ConfigDict,
  b: ml_collections.ConfigDict,
  *,
  ignored: tuple[str, ...] = (),
) -> list[str]:
  """Compares settings.

  Args:
    a: Validated settings.
    b: Other validated settings.
    ignored: Dotted names that are not compared.

  Returns:
    The dotted names of the settings that differ.
  """
  flat_a, flat_b = flatten(a), flatten(b)
  return [
    name
    for name, value in flat_a.items()
    if name not in ignored and value != flat_b[name]
  ]


def check_names(config: ml_collections.ConfigDict) -> None:
  """Raises if a setting does not exist, or one is missing.

  Args:
    config: Settings.

  Raises:
    SettingError: One line that names the setting.
  """
  found, known = flatten(config), list_declarations()
  for name in found:
    if name not in known:
      raise unknown_setting(name)
  for name in known:
    if name not in found:
      raise SettingError(
        f"config.{name}", "is missing: start from slim.config.base"
      )


def unknown_setting(name: str) -> SettingError:
  """Returns the error for a setting that does not exist.

  Args:
    name: The dotted name, without "config.".

  Returns:
    An error that names the closest setting, or the settings of the group.
  """
  known = list(flatten(base()))
  group, _, last = name.rpartition(".")
  members = [k for k in known if k.startswith(f"{name}.")]
  if members:
    return SettingError(
      f"config.{name}",
      "is a group of settings, not a setting: set one of "
      + ", ".join(f"config.{k}" for k in members),
    )
  # Compare last parts, too: the group may be missing or another one.
  by_last = {k.rpartition(".")[2]: k for k in known}
  groups = list(dict.fromkeys(k.partition(".")[0] for k in known if "." in k))
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
  if not group:
    near += difflib.get_close_matches(name, groups, n=1, cutoff=0.75)
  near += [by_last[k] for k in difflib.get_close_matches(last, by_last, n=1)]
  if near:
    hint = f"did you mean config.{near[0]}?"
  else:
    nearby = [k for k in known if k.startswith(f"{group}.")] or known
    hint = "there are " + ", ".join(f"config.{k}" for k in nearby)
  return SettingError(f"config.{name}", f"is no setting: {hint}")
