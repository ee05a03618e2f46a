"""Runs that are stopped or killed continue; processes end in one line."""

import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from slim import train
from slim.data import Copying
from slim.runs import checkpoints, restoring
from slim.runs.interruptions import Interruptions
from slim.runs.trained import load_run
from slim.training import build
from tests.train.cases import assert_same, make, read, run

ROOT = pathlib.Path(__file__).parents[2]
# Most runs differ only in their data.
pytestmark = pytest.mark.usefixtures("compilation_cache")


class StoppedError(Exception):
  """Simulates a power cut."""


def stop_at(monkeypatch, step):
  """Stops the run when it asks for the data of a step."""
  original = build.create_split

  class Stopping:
    """A dataset that has no batch of the step."""

    def __init__(self, dataset):
      self._dataset = dataset

    def __getattr__(self, name):
      return getattr(self._dataset, name)

    def batch(self, number, *rows):
      """Raises at the step."""
      if number == step:
        raise StoppedError
      return self._dataset.batch(number, *rows)

  monkeypatch.setattr(
    build, "create_split", lambda *args: Stopping(original(*args))
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    pytest.param(dict(gradient__method="slim"), marks=pytest.mark.full),
    dict(
      gradient__method="full_then_slim",
      model__dropout=0.3,
      train__accumulation_steps=2,
      train__log_every=5,
    ),
  ],
  ids=["plain", "everything"],
)
def test_a_stopped_run_continues_to_the_same_numbers(
  tmp_path, monkeypatch, settings
):
  """Fails if a run that was stopped ends with other weights."""
  settings = make(**settings)
  whole = train.train_and_evaluate(settings, str(tmp_path / "whole"))
  assert whole.step == settings.train.num_steps
  cut = str(tmp_path / "cut")
  with monkeypatch.context() as context:
    stop_at(context, 4)
    with pytest.raises(StoppedError):
      train.train_and_evaluate(settings, cut)
  assert restoring.restore_newest(cut, jax.eval_shape(lambda: whole))[1]
  continued = train.train_and_evaluate(settings, cut)
  assert_same(continued, whole)
  assert read(cut) == read(tmp_path / "whole")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compilation_cache):
  """A run that gets no signal."""
  settings = make(train__log_every=4, train__checkpoint_every=100)
  return run(settings, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
  ("name", "at"), [("SIGTERM", 2), ("SIGTERM", 3), ("SIGUSR1", 2)]
)
def test_a_signal_loses_nothing(
  tmp_path, monkeypatch, caplog, undisturbed, name, at
):
  """Fails if a signal of a cluster costs a step, or changes a number."""
  settings = undisturbed.settings
  cut = str(tmp_path / "cut")
  original, note = Copying.batch, Interruptions._note
  noted = threading.Event()

  def batch(self, step, *rows):
    if step == at:  # Step 4 is evaluated, after the run has continued.
      os.kill(os.getpid(), getattr(signal, name))
      assert noted.wait(30)
    return original(self, step, *rows)

  def noting(self, number):
    note(self, number)
    noted.set()

  with monkeypatch.context() as context:
    context.setattr(Copying, "batch", batch)
    context.setattr(Interruptions, "_note", noting)
    with caplog.at_level(logging.INFO, "slim"):
      state = train.train_and_evaluate(settings, cut)
  assert checkpoints.list_steps(cut)[0] == at + 1
  if name == "SIGTERM":
    assert state.step == at + 1
    assert caplog.messages[-1] == f"SIGTERM: saved after step {at + 1}"
    state = train.train_and_evaluate(settings, cut)
    # As if it had been killed before it could save again.
    shutil.rmtree(pathlib.Path(cut) / "checkpoints" / "6")
    state = train.train_and_evaluate(settings, cut)
  assert_same(state, undisturbed.state)
  assert read(cut) == read(undisturbed.folder)


def start(tmp_path, *arguments, program=("-m", "slim.train")):
  """Starts the command line, as a user does."""
  return subprocess.Popen(
    [
      sys.executable,
      *program,
      f"--config={ROOT}/configs/quickstart.py:smoke",
      f"--workdir={tmp_path}/run",
      "--config.model.width=16",
      "--config.data.sequence_length=16",
      *arguments,
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.parametrize(
  ("kills", "ends"),
  [
    pytest.param(1, 1, marks=pytest.mark.slow),
    pytest.param(20, 8, marks=pytest.mark.full),
  ],
)
def test_a_killed_process_continues_to_the_same_numbers(tmp_path, kills, ends):
  """Fails if only runs that end politely can be resumed, or lose a step."""
  arguments = [
    "--config.train.log_every=5",
    "--config.train.checkpoint_every=10",
    "--config.train.eval_every=1000",
    f"--compilation_cache={tmp_path}/cache",
  ]
  cut, whole = tmp_path / "cut", tmp_path / "whole"
  random = np.random.default_rng(0)
  signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * ends
  for number in random.permutation(signals):
    before = checkpoints.list_steps(str(cut / "run"))
    process = start(cut, *arguments, "--config.train.num_steps=100000")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
      if checkpoints.list_steps(str(cut / "run")) != before:
        break
      time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))  # In a save, or between two.
    process.send_signal(number)
    _, errors = process.communicate()
    ended = 0 if number == signal.SIGTERM else -signal.SIGKILL
    assert process.returncode == ended, errors
    if ended == 0:
      assert "SIGTERM: saved after step " in errors.splitlines()[-1]

  steps_done = checkpoints.list_steps(str(cut / "run"))[-1] + 25
  states = []
  for folder in (cut, whole):
    # In processes, because programs compiled for tests round differently.
    process = start(
      folder, *arguments, f"--config.train.num_steps={steps_done}"
    )
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    states.append(load_run(str(folder / "run")).state)
  assert_same(*states)
  assert read(cut / "run") == read(whole / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
  ("argument", "platform", "message"),
  [
    ("--config.gradient.chunksize=3", "cpu", "did you mean config.gradient.ch"),
    ("--config.gradient.chunk_size=0", "cpu", "config.gradient.chunk_size mus"),
    ("--config.seed=3", "none_such", "JAX_PLATFORMS=none_such: JAX finds no"),
  ],
)
def test_mistakes_of_a_process_end_in_one_line(
  tmp_path, monkeypatch, argument, platform, message
):
  """Fails if a typing error ends in a traceback."""
  monkeypatch.setenv("JAX_PLATFORMS", platform)
  process = start(tmp_path, argument)
  output, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert errors.startswith("error: ") and errors.count("\n") == 1, errors
  assert message in errors
  assert not output
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_full_disk_prints_one_line_of_a_process(tmp_path, monkeypatch):
  """Fails if tracebacks hide that the disk is full."""
  # Where slim keeps compiled programs, the disk is full, too.
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  program = (
    "import resource, runpy\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    "runpy.run_module('slim.train', run_name='__main__', alter_sys=True)"
  )
  process = start(tmp_path, program=["-c", program])
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  *log, last = errors.splitlines()
  assert last.startswith(f"error: cannot save a checkpoint in {tmp_path}/run/")
  assert "File too large: free space there" in last
  assert not [line for line in log if "Traceback" in line or "Warning" in line]
