"""Errors while a program runs end in one line."""

import logging
import os
import pathlib
import sys
import threading

import jax
import pytest
from absl import logging as absl_logging

from slim import command_line
from slim.config import setting_flags
from tests.commands import assert_refused, run_command

ROOT = pathlib.Path(__file__).parents[1]


def run_program(program, *arguments):
  """Runs a program without flags of its own."""
  return run_command(lambda argv: command_line.run(program, argv), *arguments)


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError, OSError])
def test_errors_of_the_program_end_in_one_line(kind):
  """Fails if a missing file ends in a traceback."""

  def fail():
    raise kind("config.x is wrong\nand much else")

  assert_refused(run_program(fail), "error: config.x is wrong\n")


def test_a_failed_allocation_is_one_line():
  """Fails if the raw error of XLA reaches the user."""

  def fail():
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 4 GB\nmore")

  def fail_with_config(argv):
    setting_flags.define_config()
    command_line.run(fail, argv)

  message = "error: there is no memory left: RESOURCE_EXHAUSTED: 4 GB"
  assert_refused(run_program(fail), f"{message}\n")
  config = f"--config={ROOT}/configs/quickstart.py"
  done = run_command(fail_with_config, config)
  assert_refused(done, f"{message}: find a gradient that fits by `python -m")


def test_an_error_without_words_is_one_line():
  """Fails if an error without a message becomes an IndexError."""

  def fail():
    raise ValueError

  assert_refused(run_program(fail), "error: ValueError\n")


def test_bugs_keep_their_traceback():
  """Fails if a bug cannot be found."""
  with pytest.raises(ZeroDivisionError):
    run_program(lambda: 1 / 0)

  def fail():
    raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

  with pytest.raises(jax.errors.JaxRuntimeError):
    run_program(fail)


def test_the_traceback_can_be_asked_for(monkeypatch):
  """Fails if an error inside a library cannot be understood."""
  logged = []
  monkeypatch.setattr(
    absl_logging, "debug", lambda *args, exc_info: logged.append(exc_info)
  )

  def fail():
    raise ValueError("what is wrong")

  assert run_program(fail, "--verbosity=1").code == 1
  assert logged == [True]


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no cuda")])
def test_a_device_that_is_missing_is_one_line(monkeypatch, error):
  """Fails if an AssertionError of JAX hides the cause."""

  def fail():
    raise error

  monkeypatch.setattr(jax, "devices", fail)
  done = run_program(lambda: None)
  name = f"JAX_PLATFORMS={jax.config.jax_platforms}: "
  assert_refused(done, name, "unset it, or install")


def test_a_number_that_jax_refuses_names_a_remedy():
  """Fails if a user who debugs is not told what to do."""
  with jax.debug_nans(True):
    done = run_program(lambda: jax.numpy.zeros(()) / 0)
  assert done.errors.startswith("error: ") and done.errors.count("\n") == 1
  assert "learning_rate" in done.errors and "JAX_DEBUG_NANS" in done.errors


def test_errors_in_threads_print_no_tracebacks():
  """Fails if a full disk prints hundreds of lines."""

  def fail():
    record = logging.makeLogRecord(
      dict(levelno=logging.ERROR, msg="x", pathname=os.path.join("a", "orbax"))
    )
    absl_logging.get_absl_logger().handle(record)
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    sys.unraisablehook(
      type("Arguments", (), {"exc_value": RuntimeError("loop is closed")})
    )
    raise ValueError("the disk is full")

  assert_refused(run_program(fail), "the disk is full")
