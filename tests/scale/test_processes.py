"""Two processes train as one does, end together, and go on as they were."""

import shutil
import signal

import chex
import pytest

from slim import train
from slim.config.config_file import load_config
from slim.runs.trained import load_run
from slim.scale import processes
from tests.scale.processes import (
  Processes,
  assert_same_losses,
  losses_of,
  write_config,
)

SECONDS = 5  # After which the last one must have ended.
KILLED_AT_A_SAVE = """
import os, signal
from slim.runs import checkpoints
original = checkpoints._start_arrays
def start(path, state):
  finish = original(path, state)
  if int(state.step) == 4:
    os.kill(os.getpid(), signal.SIGKILL)
  return finish
checkpoints._start_arrays = start
"""
FAILS_AT_A_STEP = """
from slim.data.copying import Copying
original = Copying.batch
def batch(self, step, *args):
  if step == 2:
    raise OSError("the disk is gone")
  return original(self, step, *args)
Copying.batch = batch
"""


def params_of(folder):
  """The parameters of the newest checkpoint."""
  return load_run(str(folder)).state.params


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """The path of a config."""
  return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config):
  """The folder of a run of two processes."""
  folder = tmp_path_factory.mktemp("undisturbed")
  both = Processes(config, folder)
  assert both.wait() == [0, 0], both.errors
  assert "step 6/6" in both.errors[0]
  assert "step" not in both.errors[1]
  return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory, config):
  """The folder of a run of which one process was killed while it saved."""
  folder = tmp_path_factory.mktemp("killed")
  both = Processes(config, folder, patches=("", KILLED_AT_A_SAVE))
  codes = both.wait()
  assert codes[1] == -signal.SIGKILL
  assert codes[0] > 0
  assert both.seconds[0] < SECONDS
  assert "error: " in both.errors[0].splitlines()[-1]
  return folder


def go_on(config, folder, killed, mesh):
  """Continues a killed run in this process, on a mesh of its devices."""
  shutil.copytree(killed, folder)
  settings = load_config(str(config))
  settings.mesh = mesh
  train.train_and_evaluate(settings, str(folder))
  return folder


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, config, undisturbed):
  """Fails if processes have other rows, or sum over their own devices only."""
  settings = load_config(str(config))
  settings.mesh = "data=1"
  train.train_and_evaluate(settings, str(tmp_path))
  assert_same_losses(undisturbed, tmp_path)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(
  tmp_path, config, killed, undisturbed
):
  """Fails if a save that was cut off is taken for a checkpoint, or lost."""
  folder = shutil.copytree(killed, tmp_path / "same")
  both = Processes(config, folder)
  assert both.wait() == [0, 0], both.errors
  assert "continuing from the checkpoint of step 2" in both.errors[0]
  assert losses_of(folder) == losses_of(undisturbed)
  chex.assert_trees_all_equal(params_of(folder), params_of(undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["sequence=8", "data=1"])
def test_a_killed_run_goes_on_elsewhere(
  tmp_path, config, killed, undisturbed, mesh
):
  """Fails if a checkpoint is of use on the devices that wrote it only."""
  folder = go_on(config, tmp_path / "other", killed, mesh)
  assert_same_losses(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, pytest.param(1, marks=pytest.mark.full)])
def test_an_error_of_one_ends_both(tmp_path, config, index):
  """Fails if the others wait in a collective, for minutes or for ever."""
  patches = ["", ""]
  patches[index] = FAILS_AT_A_STEP
  both = Processes(config, tmp_path, patches=patches)
  codes = both.wait()
  assert min(codes) > 0
  assert max(both.seconds) < SECONDS
  for errors in both.errors:
    assert "the disk is gone" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_signal_to_one_saves_and_ends_both(tmp_path, config):
  """Fails if JAX swallows SIGTERM, or processes end after different steps."""
  both = Processes(config, tmp_path, "--config.train.num_steps=100000")
  both.read_line(0, "step 3/")
  both.send(1, signal.SIGTERM)
  assert both.wait() == [0, 0], both.errors
  assert max(both.seconds) < SECONDS
  line = both.errors[0].splitlines()[-1]
  assert "a signal to one of the processes: saved after step" in line
  assert (tmp_path / "checkpoints" / line.split()[-1]).is_dir()


@pytest.mark.slow
def test_processes_must_agree(tmp_path, config):
  """Fails if processes train different models, and average them."""
  both = Processes(
    config, tmp_path, of_each=([], ["--config.optimizer.learning_rate=0.5"])
  )
  assert both.wait() == [1, 1], both.errors
  for errors in both.errors:
    assert (
      "all processes must have the same config, got "
      "'config.optimizer.learning_rate=0.001' in process 0 and "
      "'config.optimizer.learning_rate=0.5' in process 1"
    ) in errors
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("here", "must be auto, or HOST:PORT,N,I with I from 0 to N - 1"),
    ("127.0.0.1:1234,2,2", "must be auto, or HOST:PORT,N,I"),
    ("127.0.0.1,2,0", "must be auto, or HOST:PORT,N,I"),
  ],
)
def test_what_names_no_process_is_refused(text, message):
  """Fails if a wrong flag waits for others for minutes."""
  with pytest.raises(ValueError, match=message):
    processes.connect(text)


def test_auto_needs_a_cluster(monkeypatch):
  """Fails if a process outside of a cluster gets a traceback of JAX."""

  def initialize(**settings):
    raise ValueError("coordinator_address should be defined.\nMore lines.")

  monkeypatch.setattr("jax.distributed.initialize", initialize)
  with pytest.raises(
    ValueError, match="--processes=auto cannot connect: coordinator_addr"
  ):
    processes.connect("auto")


@pytest.mark.full
def test_a_failure_of_the_last_save_ends_both(tmp_path, config):
  """Fails if the others are done and wait, or end as if all were well."""
  patch = """
from slim.runs import checkpoints
original = checkpoints.write_checksums
def write(folder):
  if ".saving.6" in folder:
    raise OSError("the disk is full")
  original(folder)
checkpoints.write_checksums = write
"""
  both = Processes(config, tmp_path, patches=(patch, ""))
  assert both.wait() == [1, 1], both.errors
  assert max(both.seconds) < SECONDS
  assert "the disk is full" in both.errors[1].splitlines()[-1]


@pytest.mark.full
def test_two_processes_go_on_from_one_device(tmp_path, config, undisturbed):
  """Fails if a checkpoint, or the weights in it, are for one process only."""
  one, other = tmp_path / "one", tmp_path / "other"
  settings = load_config(str(config))
  settings.mesh, settings.train.num_steps = "data=1", 3
  train.train_and_evaluate(settings, str(one))
  from_weights = f"--config.train.init_from={one}"
  both = Processes(config, other, from_weights)
  assert both.wait() == [0, 0], both.errors
  both = Processes(config, one)
  assert both.wait() == [0, 0], both.errors
  assert "continuing from the checkpoint of step 3" in both.errors[0]
  assert_same_losses(one, undisturbed)
