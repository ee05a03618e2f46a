"""Config files: they run once, and an error names its line."""

import inspect
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

import ml_collections

from slim.config.names import check_names, unknown_setting
from slim.files import first_line, local_path
from slim.settings import SettingError


def load_config(flag: str) -> ml_collections.ConfigDict:
  """Runs a config file, and returns what its `get_config` returns.

  Args:
    flag: The path of the file. Text after a colon is the argument of its
      `get_config`, as in "configs/quickstart.py:smoke".

  Returns:
    All settings.

  Raises:
    ValueError: If the file cannot be read, raises an exception or returns no
      settings: one line with the line number.
  """
  path, colon, argument = flag.partition(":")
  if argument.startswith("/"):  # A URL, which local_path refuses.
    path = flag
  path = local_path("the file", path)
  try:
    with open(path, "rb") as file:
      source = file.read()
  except OSError as error:
    raise ValueError(f"the file cannot be read: {error.strerror}") from error
  module = types.ModuleType("config_file")
  module.__file__ = path
  sys.modules[module.__name__] = module  # Dataclasses look it up there.
  # importlib would write __pycache__ beside the file.
  _call(path, lambda: exec(compile(source, path, "exec"), module.__dict__))
  get_config = getattr(module, "get_config", None)
  if not callable(get_config):
    raise ValueError(
      "the file must have a function get_config, which returns the settings"
    )
  arguments = [argument] if colon else []
  _check_arguments(get_config, arguments)
  config = _call(path, lambda: get_config(*arguments))
  if type(config) is not ml_collections.ConfigDict:
    raise ValueError(
      f"{_definition(get_config)}: get_config must return a ConfigDict, which "
      f"starts as slim.config.base(), got {type(config).__name__}"
    )
  check_names(config)
  return config.lock()


def _check_arguments(get_config: Callable[..., Any], arguments: list[str]):
  """Raises if `get_config` does not take these arguments."""
  try:
    signature = inspect.signature(get_config)
    signature.bind(*arguments)
  except TypeError as error:
    advice = (
      f"leave out ':{arguments[0]}'"
      if arguments
      else "give it one after the file, as in --config=FILE:ARGUMENT"
    )
    raise ValueError(
      f"{_definition(get_config)}: get_config{signature} does not take "
      f"{len(arguments)} arguments: {advice}"
    ) from error


def _definition(function: Callable[..., Any]) -> str:
  """Returns the line at which a function begins."""
  code = getattr(inspect.unwrap(function), "__code__", None)
  return f"line {code.co_firstlineno}" if code else "its last lines"


def _call(path: str, function: Callable[[], Any]) -> Any:
  """Calls code of the file, and adds line numbers to its exceptions."""
  try:
    return function()
  # sys.exit in the file would end the command without a message.
  except (Exception, SystemExit) as error:
    lines = [
      frame.lineno
      for frame in traceback.extract_tb(error.__traceback__)
      if frame.filename == path
    ]
    if isinstance(error, SyntaxError) and error.filename == path:
      lines, reason = [error.lineno], f"SyntaxError: {error.msg}"
    elif isinstance(error, AttributeError) and isinstance(
      error.obj, ml_collections.ConfigDict
    ):
      # The message of ml_collections would contain all settings.
      reason = str(unknown_setting(error.name or ""))
    else:
      reason = first_line(error)
      if type(error) not in (ValueError, SettingError):
        reason = f"{type(error).__name__}: {reason}"
    line = f"line {lines[-1]}: " if lines else ""
    raise ValueError(f"{line}{reason}") from error
