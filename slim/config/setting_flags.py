"""Flags for settings: `--config=FILE` and `--config.group.setting=value`."""

import ast
from collections.abc import Callable
from typing import Any

from absl import flags

from slim.config.config_file import load_config
from slim.config.defaults import list_declarations
from slim.settings import Setting

flags.disclaim_key_flags()  # `--help` lists flags as the command's own.


class _SettingParser(flags.ArgumentParser):
  """Parses a setting of a type, or None."""

  def __init__(self, kind: type):
    super().__init__()
    parsers: dict[type, Callable[[str], Any]] = {
      int: flags.IntegerParser().parse,
      float: flags.FloatParser().parse,
      str: str,
      tuple: _parse_tuple,
    }
    self._parse = parsers[kind]

  def parse(self, argument: str) -> Any:
    """Returns the value. An unset flag is None, too, but not `present`."""
    return None if argument == "None" else self._parse(argument)


class _ConfigParser(flags.ArgumentParser):
  """Loads a config file."""

  def parse(self, argument: str) -> Any:
    """Returns the settings."""
    return load_config(argument)


def define_config(
  flag_values: flags.FlagValues = flags.FLAGS,
) -> flags.FlagHolder:
  """Defines `--config`, which is required, and a flag for each setting.

  Args:
    flag_values: The flags to which they are added.

  Returns:
    The holder of the settings. `parse_flags` applies the flags to them.
  """
  for name, declaration in list_declarations().items():
    name, about = f"config.{name}", _describe(declaration)
    flag: flags.Flag
    if declaration.kind is bool:
      flag = flags.BooleanFlag(name, None, about)
    else:
      parser = _SettingParser(declaration.kind)
      flag = flags.Flag(parser, None, name, None, about)
    # With this module name only `--helpfull` lists them, as they are many.
    flags.DEFINE_flag(flag, flag_values, module_name="slim.config")
  return flags.DEFINE(
    _ConfigParser(),
    "config",
    None,
    "File in configs/.",
    flag_values,
    required=True,
  )


def takes_settings(flag_values: flags.FlagValues) -> bool:
  """Tells whether `define_config` has added its flags.

  Args:
    flag_values: The flags that are defined.

  Returns:
    Whether they include such a `--config`.
  """
  flag = flag_values["config"] if "config" in flag_values else None
  return flag is not None and isinstance(flag.parser, _ConfigParser)


def change_settings(flag_values: flags.FlagValues) -> None:
  """Applies the settings on the command line to those of the config file.

  Args:
    flag_values: The flags, parsed.
  """
  config: Any = flag_values["config"].value
  config.update_from_flattened_dict(
    {
      name: flag_values[f"config.{name}"].value
      for name in list_declarations()
      if flag_values[f"config.{name}"].present
    }
  )


def _describe(declaration: Setting) -> str:
  """Returns the help of a flag: the description, the choices, the default."""
  choices = ", ".join(map(str, declaration.choices))
  choices = f" One of: {choices}." if choices else ""
  return f"{declaration.about}{choices} Default: {declaration.default}."


def _parse_tuple(argument):
  """Parses numbers separated by commas."""
  try:
    value = ast.literal_eval(argument)
  except (ValueError, SyntaxError) as error:
    raise ValueError("must be numbers with commas between") from error
  return tuple(value) if isinstance(value, tuple | list) else (value,)
