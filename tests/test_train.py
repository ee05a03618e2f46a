"""Whole runs: resumed ones, and refused ones."""

import functools
import gzip
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import chex
import jax
import ml_collections
import pytest

from slim import (
  config,
  evaluate,
  train,
)
from slim.runs import checkpoints, metrics, workdir
from slim.training import build, steps
from slim.types import TrainState
from tests.helpers import SMALL, make_config

ROOT = pathlib.Path(__file__).parents[1]


# Most runs differ only in their data.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def make(**settings):
  """Returns the config of a fast run; dots in names are written as __."""
  defaults = SMALL | dict(
    gradient__method="full",  # The fastest to compile.
    gradient__chunk_size=5,
    train__num_steps=6,
    train__log_every=2,
    train__eval_every=4,
    train__eval_batches=1,
    train__checkpoint_every=3,
  )
  return make_config(**(defaults | settings)).lock()


class Run(NamedTuple):
  """A finished run; tests read it, or copy its folder."""

  settings: ml_collections.ConfigDict
  folder: pathlib.Path
  state: TrainState
  log: list[logging.LogRecord]

  def copy(self, folder):
    """Copies the folder of the run, and returns where it is."""
    return shutil.copytree(self.folder, folder)


def run(settings, folder):
  """Trains, and keeps the log."""
  records = []
  handler = logging.Handler()
  handler.emit = records.append
  logger = logging.getLogger("slim")
  level = logger.level
  logger.setLevel(logging.INFO)
  logger.addHandler(handler)
  state = train.train_and_evaluate(settings, str(folder))
  logger.removeHandler(handler)
  logger.setLevel(level)
  return Run(settings, folder, state, records)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compilation_cache):
  """A run of 6 steps."""
  return run(make(), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def half(tmp_path_factory, compilation_cache):
  """The same run after 3 steps."""
  return run(make(train__num_steps=3), tmp_path_factory.mktemp("half"))


@pytest.fixture(scope="module")
def text(tmp_path_factory, compilation_cache):
  """A run on a file that is called enwik8 but is not enwik8."""
  folder = tmp_path_factory.mktemp("text")
  (folder / "enwik8").write_bytes(bytes(range(256)) * 8)
  settings = make(
    data__name="enwik8",
    data__path=str(folder / "enwik8"),
    data__vocab_size=256,
    train__num_steps=1,
  )
  return run(settings, folder / "run")


def read(folder):
  """Reads the records of a run, without times."""
  records = metrics.read_records(os.path.join(folder, "metrics.jsonl"))
  return [
    {k: v for k, v in record.items() if not k.startswith("time/")}
    for record in records
  ]


def assert_same(a, b):
  """Asserts that two states are equal to the last bit."""
  chex.assert_trees_all_equal(a, b)


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

    def batch(self, number):
      """Raises at the step."""
      if number == step:
        raise StoppedError
      return self._dataset.batch(number)

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
  assert checkpoints.restore_newest(cut, jax.eval_shape(lambda: whole))[1]
  continued = train.train_and_evaluate(settings, cut)
  assert_same(continued, whole)
  assert read(cut) == read(tmp_path / "whole")


def test_a_longer_run_continues_a_finished_one(tmp_path, whole, half):
  """Fails if more steps mean starting again."""
  cut = half.copy(tmp_path / "cut")
  continued = train.train_and_evaluate(whole.settings, str(cut))
  assert_same(continued, whole.state)
  last = [r for r in read(cut) if r["step"] == 6]
  assert last == [r for r in read(whole.folder) if r["step"] == 6]


def test_a_finished_run_is_left_alone(whole, caplog):
  """Fails if the same command again trains, or fails."""
  before = list_files(whole.folder)
  with caplog.at_level(logging.INFO, "slim"):
    again = train.train_and_evaluate(whole.settings, str(whole.folder))
  assert_same(again, whole.state)
  assert before == list_files(whole.folder)
  assert "already finished at step 6: nothing to do" in caplog.messages


def test_accumulation_and_method_change_nothing(tmp_path, whole):
  """Fails if the gradient method decides what is learned."""
  settings = make(gradient__method="slim", train__accumulation_steps=4)
  state = train.train_and_evaluate(settings, str(tmp_path))
  chex.assert_trees_all_close(
    state.params, whole.state.params, rtol=1e-3, atol=2e-4
  )


def test_metrics_have_all_fields(whole):
  """Fails if a plot finds no numbers."""
  records = metrics.read_records(str(whole.folder / "metrics.jsonl"))
  reports = [r for r in records if "train/loss" in r]
  evaluations = [r for r in records if "eval/loss" in r]
  assert [r["step"] for r in reports] == [2, 4, 6]
  assert [r["step"] for r in evaluations] == [4, 6]
  for name in (
    "train/bpc",
    "time/tokens_per_second",
    "time/model_flops_per_second",
    "memory/activation_bytes",
  ):
    assert all(r[name] > 0 for r in reports)
  assert all({"eval/bpc", "eval/accuracy"} <= set(r) for r in evaluations)
  stored = workdir.read_config(str(whole.folder))
  assert config.flatten(stored) == config.flatten(make())


def test_the_log_says_what_trains_and_where_it_is(whole):
  """Fails if a user must search for the results."""
  messages = [record.getMessage() for record in whole.log]
  assert any("total" in message for message in messages)
  assert {record.levelno for record in whole.log} == {logging.INFO}
  assert messages[-1] == (
    f"finished: checkpoint {whole.folder}/checkpoints/6, metrics "
    f"{whole.folder}/metrics.jsonl, config {whole.folder}/config.json"
  )


def test_the_log_and_the_record_say_what_the_data_is(text):
  """Fails if a part of enwik8 can be taken for the benchmark."""
  record = json.loads((text.folder / "config.json").read_text())
  assert record["data"].startswith(
    "a file of 2,048 bytes instead of enwik8, train: 1843 of 2048 bytes, "
  )
  [logged] = [x for x in text.log if x.getMessage().startswith("data: ")]
  assert logged.getMessage() == f"data: {record['data']}"
  assert logged.levelno == logging.WARNING


def list_files(folder):
  """Returns when each file of a run, except its lock, was last written."""
  return {
    path: path.stat().st_mtime_ns
    for path in folder.rglob("*")
    if path.is_file() and path.name != ".lock"
  }


def test_a_run_that_is_under_way_is_not_touched(tmp_path, half):
  """Fails if the same command, given twice, loses records."""
  folder = half.copy(tmp_path / "run")
  before = list_files(folder)
  with workdir.lock_workdir(str(folder)):
    with pytest.raises(ValueError, match="is being trained by another process"):
      train.train_and_evaluate(make(), str(folder))
    assert list_files(folder) == before
    # Reading needs no lock.
    record = evaluate.evaluate_workdir(str(folder), "validation", False)
  assert record["step"] == 3


def test_a_run_that_has_gone_on_meanwhile_is_not_turned_back(
  tmp_path, monkeypatch, half
):
  """Fails if checkpoints of another process are set aside."""
  folder = tmp_path / "run"

  def compile_slowly(*args):
    half.copy(folder)
    before.update(list_files(folder))

  before = {}
  monkeypatch.setattr(train, "compile_steps", compile_slowly)
  with pytest.raises(ValueError, match="has been trained by another process"):
    train.train_and_evaluate(make(), str(folder))
  assert before and list_files(folder) == before


def test_a_damaged_newest_checkpoint_falls_back(tmp_path, whole, caplog):
  """Fails if a full disk at the last save costs the whole run."""
  folder = whole.copy(tmp_path / "run")
  for file in (folder / "checkpoints" / "6").rglob("*"):
    if file.is_file():
      file.write_bytes(file.read_bytes()[:20])
  with caplog.at_level(logging.INFO, "slim"):
    again = train.train_and_evaluate(whole.settings, str(folder))
  assert_same(again, whole.state)
  line = "the checkpoint of step 6 is damaged, falling back"
  assert sum(x.startswith(line) for x in caplog.messages) == 1
  assert "continuing from the checkpoint of step 3" in caplog.messages
  assert [r["step"] for r in read(folder)] == [2, 4, 4, 6, 6]
  assert (folder / "damaged_checkpoints" / "6.0").is_dir()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
  """Fails if bad checkpoints replace the last good one."""
  original = steps.make_update_step

  def break_weights(optimizer):
    update_step = original(optimizer)

    def update(state, gradients, weight):
      scale = jax.numpy.where(state.step == 3, jax.numpy.nan, 1.0)
      return update_step(
        state, jax.tree.map(lambda x: x * scale, gradients), weight
      )

    return update

  monkeypatch.setattr(steps, "make_update_step", break_weights)
  with pytest.raises(FloatingPointError, match="of step 4 .*learning_rate"):
    train.train_and_evaluate(make(train__checkpoint_every=1), str(tmp_path))
  saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert max(map(int, saved)) == 3


def test_other_data_is_refused(tmp_path, text):
  """Fails if a run continues with a text that has changed."""
  folder = text.copy(tmp_path / "run")
  moved = tmp_path / "moved"
  moved.write_bytes(pathlib.Path(text.settings.data.path).read_bytes())
  settings = text.settings.copy_and_resolve_references()
  settings.data.path = str(moved)
  train.train_and_evaluate(settings, str(folder))  # Same bytes, elsewhere.
  moved.write_bytes(bytes(range(1, 256)) * 9)
  with pytest.raises(ValueError, match="config.data.path: the data is not"):
    train.train_and_evaluate(settings, str(folder))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(gradient__chunk_size=-1), "config.gradient.chunk_size must be > 0"),
    (dict(model__num_heads=3), "config.model.width must be a multiple of n"),
    (dict(model__feature_map="cube"), "config.model.feature_map must be one"),
    (dict(data__sequence_length=15), "config.data.sequence_length must be ev"),
    (dict(data__name="x"), "config.data.name must be one of ('copying'"),
    (dict(data__name="text", data__vocab_size=256), "config.data.path: 'text"),
    (dict(profile__steps=(5, 7)), "config.profile.steps must be FIRST,LAST"),
    (dict(train__init_from="x"), "config.train.init_from: x must be a safete"),
  ],
)
def test_a_refused_run_writes_nothing(tmp_path, settings, message):
  """Fails if the corrected command finds another config there."""
  with pytest.raises(ValueError) as error:
    train.train_and_evaluate(make(**settings), str(tmp_path / "run"))
  assert str(error.value).startswith(message)
  assert not list(tmp_path.iterdir())


def test_a_missing_package_writes_nothing(tmp_path, monkeypatch):
  """Fails if the corrected command finds a run half begun."""
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(ValueError, match="^config.train.tensorboard needs the"):
    train.train_and_evaluate(make(train__tensorboard=True), str(tmp_path / "x"))
  assert not list(tmp_path.iterdir())


def test_looking_at_a_run_changes_no_number(tmp_path, whole, caplog):
  """Fails if a profile or TensorBoard changes the numbers of a run."""
  settings = dict(profile__steps=(4, 6), train__tensorboard=True)
  with caplog.at_level(logging.INFO, "slim"):
    watched = train.train_and_evaluate(make(**settings), str(tmp_path / "x"))
  assert_same(whole.state, watched)
  assert read(whole.folder) == read(tmp_path / "x")
  names = {path.name for path in whole.folder.iterdir()}
  assert names == {".lock", "checkpoints", "config.json", "metrics.jsonl"}
  assert list((tmp_path / "x").glob("events.out.tfevents.*"))
  assert f"trace of training steps: {tmp_path}/x/profile" in caplog.messages
  [path] = (tmp_path / "x" / "profile").rglob("*.trace.json.gz")
  traced = [
    int(event["args"]["step_num"])
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    if event.get("name") == "train"
  ]
  assert traced == [4, 5, 6]


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


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_numbers(tmp_path):
  """Fails if only runs that end politely can be resumed."""
  arguments = [
    "--config.train.log_every=5",
    "--config.train.checkpoint_every=10",
  ]
  cut, whole = tmp_path / "cut", tmp_path / "whole"
  process = start(cut, *arguments, "--config.train.num_steps=100000")
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if len(checkpoints.list_steps(str(cut / "run"))) >= 2:
      break
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  _, errors = process.communicate()
  assert process.returncode == -signal.SIGKILL, errors

  steps_done = checkpoints.list_steps(str(cut / "run"))[-1] + 25
  states = []
  for folder in (cut, whole):
    # In processes, because programs compiled for tests round differently.
    process = start(
      folder, *arguments, f"--config.train.num_steps={steps_done}"
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    settings = workdir.read_config(str(folder / "run"))
    experiment = build.create_experiment(settings)
    abstract_state = jax.eval_shape(functools.partial(build.init, experiment))
    run_folder = str(folder / "run")
    states.append(checkpoints.restore_run(run_folder, abstract_state)[0])
  assert_same(*states)
  reports = [
    [r for r in read(folder / "run") if "train/loss" in r]
    for folder in (cut, whole)
  ]
  assert reports[0] == reports[1]


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
  # JAX would warn that it cannot write to the cache.
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
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
  assert not [line for line in log if "Traceback" in line or "Error" in line]
