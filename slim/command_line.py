"""The command line: flags, and errors that end in one line.

A command is a function `main(argv=None)` that defines its flags and calls
`run`. A ValueError anywhere below it is a mistake of the user. It ends in one
line on stderr and exit code 1; `--verbosity=1` adds the traceback.
"""

import contextlib
import functools
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable

import jax
from absl import app, flags
from absl import logging as absl_logging

from slim import config as config_lib
from slim.config.setting_flags import (
  change_settings,
  takes_settings,
)
from slim.files import check_new_file, first_line, local_path

flags.disclaim_key_flags()  # `--help` lists flags as the command's own.


def parse_flags(
  argv: list[str],
  flag_values: flags.FlagValues = flags.FLAGS,
  *,
  known_only: bool = False,
) -> list[str]:
  """Parses the flags; an error ends in one line.

  Args:
    argv: The program and its arguments.
    flag_values: The defined flags.
    known_only: Whether to return unknown arguments instead of refusing them.

  Returns:
    The program and the unknown arguments.

  Raises:
    SystemExit: With a one-line message, if a flag or a setting does not exist,
      is missing or given twice, its value has the wrong type, or the config
      file fails.
  """
  arguments = _read_flag_files(argv[1:], flag_values)
  for name in flag_values:
    flag_values[name].allow_overwrite = False  # Or the first is ignored.
  try:
    program, *rest = flag_values([argv[0], *arguments], known_only)
  except flags.UnrecognizedFlagError as error:
    name = error.flagname.removeprefix("no")
    if name in flag_values:
      sys.exit(
        f"error: --no{name}: only flags that are True or False have a --no…"
      )
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


def check_output(path: str) -> str:
  """Checks the path given by `--output`, before anything is computed.

  Args:
    path: The value of the flag.

  Returns:
    The path of a local file that does not exist.

  Raises:
    ValueError: If it is no such path, or its folder does not exist.
  """
  path = local_path("--output", path)
  check_new_file("--output", path)
  return path


def run(
  main: Callable[[], None],
  argv: list[str] | None = None,
  *,
  choose_device: Callable[[], object] = lambda: None,
  end: Callable[[BaseException | None], object] = lambda error: None,
) -> None:
  """Runs a command that computes on a device.

  Args:
    main: The command; it is called after the flags are parsed.
    argv: The program and its arguments; None: those of this process.
    choose_device: Called before JAX looks for devices.
    end: Called at the end, with what was raised or None.
  """

  def start():
    choose_device()
    _check_device()
    main()

  def run_to_the_end(_):
    with contextlib.ExitStack() as stack:
      stack.push(lambda kind, error, traceback: end(error))
      run_main(start)

  app.run(run_to_the_end, argv, flags_parser=parse_flags)


def run_script(
  main: Callable[[list[str]], None],
  argv: list[str] | None = None,
  *,
  known_only: bool = True,
) -> None:
  """Runs a script that needs no device.

  Args:
    main: The script; it is called with the arguments that are not its flags.
    argv: The program and its arguments; None: those of this process.
    known_only: As for `parse_flags`.
  """
  app.run(
    lambda argv: run_main(lambda: main(argv[1:])),
    argv,
    flags_parser=functools.partial(parse_flags, known_only=known_only),
  )


def run_main(main: Callable[[], None]) -> None:
  """Calls `main`, and ends in one line if it raises a user's error.

  Args:
    main: The command.

  Raises:
    SystemExit: With a one-line message, if `main` raises a ValueError, an
      OSError (a folder that cannot be written) or a FloatingPointError (the
      loss is not finite), or if JAX has no memory left.
  """
  _end_at_once_by_ctrl_c()
  _log_to_stderr()
  if hasattr(sys.stdout, "reconfigure"):
    # A terminal may lack a character of a text or of the name of a file.
    sys.stdout.reconfigure(errors="backslashreplace")
  try:
    main()
  except (ValueError, FloatingPointError, OSError) as error:
    absl_logging.debug("The error in full:", exc_info=True)
    line = first_line(error)
    if isinstance(error, FloatingPointError) and "config." not in line:
      # Raised by JAX, at the first operation whose result is not finite.
      line += (
        ": lower config.optimizer.learning_rate; JAX stops here because "
        "JAX_DEBUG_NANS or JAX_DEBUG_INFS is set"
      )
    sys.exit(f"error: {line}")
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    is_memory = isinstance(error, MemoryError)
    if not is_memory and "RESOURCE_EXHAUSTED" not in str(error):
      raise
    absl_logging.debug("The error in full:", exc_info=True)
    line = f"there is no memory left: {first_line(error)}"
    if takes_settings(flags.FLAGS):
      line += ": find a gradient that fits by `python -m slim.plan`, or lower "
      line += "config.train.batch_size"
    sys.exit(f"error: {line}")


def _read_flag_files(arguments, flag_values):
  """Replaces a `--flagfile` by its lines."""
  try:
    if "--flagfile=" in arguments:  # absl ignores it.
      raise ValueError("must be a path, got ''")
    return flag_values.read_flags_from_files(arguments, force_gnu=False)
  except (flags.Error, ValueError) as error:
    reason = first_line(error).rpartition("[Errno ")[2]
    sys.exit(f"error: --flagfile: {re.sub(r'^[0-9]+] ', '', reason)}")


def _explain(line, flag_values):
  """Rewrites a message of absl about the value of a flag for users."""
  flag, _, reason = line.partition(": ")
  flag = flag.removeprefix("flag ")
  if reason.endswith("must have a value other than None."):
    name = flag.removesuffix("=None").lstrip("-")
    return f"--{name} is missing: {flag_values[name].help}"
  if reason.startswith("already defined as "):
    return f"{flag} is given twice: leave one out"
  return line.removeprefix("flag ")


def _end_at_once_by_ctrl_c():
  """Lets Ctrl-C end the process, and not raise a KeyboardInterrupt.

  Python would raise it only after a program on the device, or a compilation,
  has ended, and print a traceback. Files are written whole or not at all.
  """
  is_main = threading.current_thread() is threading.main_thread()
  if is_main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _check_device():
  """Raises if JAX finds no device."""
  try:
    jax.devices()
  # JAX raises an AssertionError if the plugin of a platform is missing.
  except (RuntimeError, AssertionError) as error:
    raise ValueError(
      f"JAX_PLATFORMS={jax.config.jax_platforms or ''}: JAX finds no such "
      "device on this machine: unset it, or install slim's extra for the device"
    ) from error


def _log_to_stderr() -> None:
  """Shows the log of slim, but only warnings of the libraries."""
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)
    # Errors in threads of Orbax are raised again where slim waits for them.
    absl_logging.get_absl_logger().addFilter(_is_news)
    sys.unraisablehook = threading.excepthook = _keep_for_debugging
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("slim")
  logger.handlers = [handler]
  logger.setLevel(logging.INFO)
  logger.propagate = False


def _is_news(record):
  """Hides errors of Orbax, which are raised later, too."""
  return "orbax" not in record.pathname or record.levelno < logging.ERROR


def _keep_for_debugging(arguments):
  """Logs an exception of a thread; `--verbosity=1` shows it."""
  absl_logging.debug("In a thread: %r", arguments.exc_value)
