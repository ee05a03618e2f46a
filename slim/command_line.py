"""The command line: flags, and mistakes that end in one line.

`run(main)` is what a module does as a program. A mistake of the user, which is
a ValueError anywhere below, ends in one line on stderr and exit code 1;
`--verbosity=1` adds the traceback.
"""

import functools
import logging
import re
import sys
from collections.abc import Callable

import ml_collections
from absl import app, flags
from absl import logging as absl_logging

from slim import config as config_lib

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")
# The flags of numbers and strings know no None.
_UNSET = re.compile(r"--?config\.([^=]+)=None")


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
      its value has the wrong type or the config file cannot be loaded.
  """
  try:
    for argument in argv[1:]:
      if override := _OVERRIDE.match(argument):
        name = override.group(1)
        if name not in config_lib.flatten(config_lib.base()):
          raise config_lib.unknown_setting(name)
    unset = [match[1] for match in map(_UNSET.fullmatch, argv[1:]) if match]
    if "config" in flag_values:
      argv = [argument for argument in argv if not _UNSET.fullmatch(argument)]
    program, *rest = flag_values(argv, known_only)
    if rest and not known_only:
      raise ValueError(f"unexpected {rest[0]!r}: all arguments are --flags")
    if "config" in flag_values:
      config = flag_values["config"].value  # A missing file shows only now.
      config.update_from_flattened_dict(dict.fromkeys(unset))
    return [program, *rest]
  except OSError as error:
    line = str(error).strip().splitlines()[-1].strip()
    sys.exit(f"error: --config: the file cannot be read: {line}")
  except (flags.Error, ValueError, AttributeError, TypeError) as error:
    if isinstance(getattr(error, "obj", None), ml_collections.ConfigDict):
      # The config file has asked for a setting; what is raised is a repr.
      error = config_lib.unknown_setting(error.name)
    # An error inside the config file comes with its traceback before it.
    line = str(error).strip().splitlines()[-1]
    sys.exit(f"error: {re.sub(r'^(Value|Type)Error: ', '', line)}")


def run(main: Callable[[], None]) -> None:
  """Runs a program.

  Args:
    main: Called when the flags are parsed.
  """
  app.run(lambda _: run_main(main), flags_parser=parse_flags)


def run_script(main: Callable[[list[str]], None]) -> None:
  """Runs a program that takes more than its flags.

  Args:
    main: Called with the arguments that are no flags of its own.
  """
  app.run(
    lambda argv: run_main(lambda: main(argv[1:])),
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
    sys.exit(f"error: {str(error).splitlines()[0]}")


def _log_to_stderr() -> None:
  """Shows what slim reports, and of the libraries only warnings."""
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
  logger = logging.getLogger("slim")
  logger.handlers = [handler]
  logger.setLevel(logging.INFO)
  logger.propagate = False
