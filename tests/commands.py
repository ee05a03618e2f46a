"""Runs commands in this process, and returns their output and exit code."""

import contextlib
import io
import logging
import pathlib
import resource
import signal
import sys
import threading
from typing import NamedTuple

import pytest
from absl import app
from absl import logging as absl_logging
from absl.testing import flagsaver

from slim import evaluate, train
from slim.generate import __main__ as generate_main
from slim.runs import stages


class Done(NamedTuple):
  """The result of a command."""

  code: int
  output: str
  errors: str


def run_command(main, *arguments):
  """Runs a command, and restores everything that it changes in the process.

  Args:
    main: The command, as `slim.train.main`.
    *arguments: The command line, without the program.

  Returns:
    Its exit code, and its output on stdout and stderr.
  """
  output, errors = io.StringIO(), io.StringIO()
  logger = logging.getLogger("slim")
  absl_logger = absl_logging.get_absl_logger()
  on_ctrl_c = signal.getsignal(signal.SIGINT)
  code = 0
  with (
    contextlib.redirect_stdout(output),
    contextlib.redirect_stderr(errors),
    flagsaver.flagsaver(),
    pytest.MonkeyPatch.context() as patch,
  ):
    # The original works only once per process.
    patch.setattr(
      app, "run", lambda main, argv, flags_parser: main(flags_parser(argv))
    )
    # All later tests would use it.
    for module in (train, evaluate, generate_main):
      patch.setattr(module, "use_cache", lambda folder: None)
    for owner, names in (
      (logger, ("handlers", "level", "propagate")),
      (absl_logger, ("filters", "handlers", "level")),
      (sys, ("unraisablehook",)),
      (threading, ("excepthook",)),
    ):
      for name in names:
        value = getattr(owner, name)
        copy = list(value) if isinstance(value, list) else value
        patch.setattr(owner, name, copy)
    # A slow machine would log how long a compilation takes.
    patch.setattr(stages, "_FIRST_SECONDS", threading.TIMEOUT_MAX)
    # As `app.run` does, which is replaced.
    absl_logger.addHandler(logging.StreamHandler(errors))
    try:
      main(["program", *map(str, arguments)])
    except SystemExit as error:
      code = error.code or 0
      if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    finally:
      signal.signal(signal.SIGINT, on_ctrl_c)
  return Done(code, output.getvalue(), errors.getvalue())


def assert_refused(done, *words):
  """Asserts that a command ended in one line on stderr with these words."""
  assert done.code == 1, done
  assert not done.output
  assert done.errors.startswith("error: ") and done.errors.count("\n") == 1, (
    done.errors
  )
  for word in words:
    assert word in done.errors


def list_files(folder):
  """Returns the files in a folder and when they were written."""
  return {
    path: None if path.is_dir() else path.lstat().st_mtime_ns
    for path in pathlib.Path(folder).rglob("*")
  }


@contextlib.contextmanager
def limit_files(size):
  """Limits the size of files, as a full disk does."""
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
