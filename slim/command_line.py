"""The command line: flags, and mistakes that end in one line.

A command is a function `main(argv=None)`, which defines its flags and calls
`run`. A mistake of the user, which is a ValueError anywhere below, ends in one
line on stderr and exit code 1; `--verbosity=1` adds the traceback.
"""

import functools
import logging
import re
import sys
import threading
from collections.abc import Callable

import jax
from absl import app, flags
from absl import logging as absl_logging

from slim import config as config_lib
from slim.config.config_file import first_line
from slim.config.setting_flags import (
  change_settings,
  takes_settings,
)

flags.disclaim_key_flags()  # `--help` lists them as those of the command.


def parse_flags(
  argv: list[str],
  flag_values: flags.FlagValues = flags.FLAGS,
  *,
  known_only: bool = False,
) -> list[str]:
  """Parses the flags, with one line for whatever is wrong with them.

  Args:
    argv: The command line, the program first.
    flag_values: The flags that are defined.
    known_only: Whether other arguments are returned, and not refused.

  Returns:
    The program, and what it has to look at itself.

  Raises:
    SystemExit: With a one-line message, if a flag or a setting does not exist,
      is missing or given twice, its value has the wrong type, or the config
      file makes no settings.
  """
  arguments = _read_flag_files(argv[1:], flag_values)
  for name in flag_values:
    flag_values[name].allow_overwrite = False  # The first would be ignored.
  try:
    program, *rest = flag_values([argv[0], *arguments], known_only)
  except flags.UnrecognizedFlagError as error:
    name = error.flagname.removeprefix("no")
    if name in flag_values:
      sys.exit(f"error: --no{name}: only what is True or False has a --no…")
    if name.startswith("config.") and takes_settings(flag_values):
      name = name.removeprefix("config.")
      sys.exit(f"error: {config_lib.unknown_setting(name)}")
    sys.exit(f"error: {first_line(error)}")
  except (flags.Error, ValueError) as error:
    sys.exit(f"error: {_explain(first_line(error), flag_values)}")
  if rest and not known_only:
    sys.exit(f"error: unexpected {rest[0]!r}: all arguments are --flags")
  if takes_settings(flag_values):
    change_settings(flag_values)
  return [program, *rest]


def run(main: Callable[[], None], argv: list[str] | None = None) -> None:
  """Runs a program that computes.

  Args:
    main: Called when the flags are parsed.
    argv: The program and its arguments; None: those of this process.
  """

  def start():
    _check_device()
    main()

  app.run(lambda _: run_main(start), argv, flags_parser=parse_flags)


def run_script(
  main: Callable[[list[str]], None], argv: list[str] | None = None
) -> None:
  """Runs a program that takes more than its flags, and no device.

  Args:
    main: Called with the arguments that are no flags of its own.
    argv: The program and its arguments; None: those of this process.
  """
  app.run(
    lambda argv: run_main(lambda: main(argv[1:])),
    argv,
    flags_parser=functools.partial(parse_flags, known_only=True),
  )


def run_main(main: Callable[[], None]) -> None:
  """Calls `main`, and lets a mistake of the user end in one line.

  Args:
    main: The program.

  Raises:
    SystemExit: With a one-line message, if `main` raises a ValueError, an
      OSError (a folder that cannot be written) or, when the loss is no number
      any more, a FloatingPointError.
  """
  _log_to_stderr()
  try:
    main()
  except (ValueError, FloatingPointError, OSError) as error:
    absl_logging.debug("The error in full:", exc_info=True)
    line = first_line(error)
    if isinstance(error, FloatingPointError) and "config." not in line:
      # Raised by JAX, at the first operation that makes one.
      line += (
        ": lower config.optimizer.learning_rate; JAX stops here as JAX_DEBUG_"
        "NANS or JAX_DEBUG_INFS is set"
      )
    sys.exit(f"error: {line}")


def _read_flag_files(arguments, flag_values):
  """Puts the lines of a `--flagfile` in its place."""
  try:
    if "--flagfile=" in arguments:  # Is ignored by absl.
      raise ValueError("must be a path, got ''")
    return flag_values.read_flags_from_files(arguments, force_gnu=False)
  except (flags.Error, ValueError) as error:
    reason = first_line(error).rpartition("[Errno ")[2]
    sys.exit(f"error: --flagfile: {re.sub(r'^[0-9]+] ', '', reason)}")


def _explain(line, flag_values):
  """Returns what absl says about the value of a flag in words for users."""
  flag, _, reason = line.partition(": ")
  flag = flag.removeprefix("flag ")
  if reason.endswith("must have a value other than None."):
    name = flag.removesuffix("=None").lstrip("-")
    return f"--{name} is missing: {flag_values[name].help}"
  if reason.startswith("already defined as "):
    return f"{flag} is given twice: leave one out"
  return line.removeprefix("flag ")


def _check_device():
  """Raises if JAX has no device to run on."""
  try:
    jax.devices()
  # An AssertionError, if the plugin of a platform is not installed.
  except (RuntimeError, AssertionError) as error:
    raise ValueError(
      f"JAX_PLATFORMS={jax.config.jax_platforms or ''}: JAX finds no such "
      "device on this machine: unset it, or install slim's extra for the device"
    ) from error


def _log_to_stderr() -> None:
  """Shows what slim reports, and of the libraries only warnings."""
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)
    # What fails in a thread of Orbax is raised again where slim waits for it.
    # Before, each thread would print its own traceback.
    absl_logging.get_absl_logger().addFilter(_is_news)
    sys.unraisablehook = threading.excepthook = _keep_for_debugging
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("slim")
  logger.handlers = [handler]
  logger.setLevel(logging.INFO)
  logger.propagate = False


def _is_news(record):
  """Whether a record of the libraries is more than an error raised later."""
  return "orbax" not in record.pathname or record.levelno < logging.ERROR


def _keep_for_debugging(arguments):
  """Logs an exception of a thread where `--verbosity=1` shows it."""
  absl_logging.debug("In a thread: %r", arguments.exc_value)
