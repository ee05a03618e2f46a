"""Whole runs: their records, and what a second command does with them."""

import gzip
import json
import logging
import pathlib
import shutil

import chex
import jax
import pytest

from slim import config, evaluate, train
from slim.runs import config_json, metrics, workdir
from tests.commands import run_command
from tests.train.cases import assert_same, make, read, run

ROOT = pathlib.Path(__file__).parents[2]

# Most runs differ only in their data.
pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compilation_cache):
  """A run of 6 steps."""
  return run(make(), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def half(tmp_path_factory, compilation_cache):
  """The same run after 3 steps."""
  return run(make(train__num_steps=3), tmp_path_factory.mktemp("half"))


def test_a_longer_run_continues_a_finished_one(tmp_path, whole, half):
  """Fails if more steps mean starting again."""
  cut = half.copy(tmp_path / "cut")
  continued = train.train_and_evaluate(whole.settings, str(cut))
  assert_same(continued, whole.state)
  last = [r for r in read(cut) if r["step"] == 6]
  assert last == [r for r in read(whole.folder) if r["step"] == 6]


def test_a_change_is_allowed_and_said(tmp_path, half, caplog):
  """Fails if a run cannot go on with another rate, or hides that it does."""
  cut = half.copy(tmp_path / "cut")
  changed = make(optimizer__learning_rate=0.5, train__batch_size=2)
  with pytest.raises(ValueError, match="--allow_change=optimizer.learning_rat"):
    train.train_and_evaluate(changed, str(cut))
  with caplog.at_level(logging.INFO, "slim"):
    state = train.train_and_evaluate(
      changed, str(cut), ["optimizer.learning_rate", "train.batch_size"]
    )
  assert state.step == 6
  assert (
    "continuing from the checkpoint of step 3; changed since then: "
    "config.optimizer.learning_rate, config.train.batch_size"
  ) in caplog.messages
  records = json.loads((cut / "config.json").read_text())
  assert [x["start"] for x in records["processes"]] == [0, 3]
  with pytest.raises(ValueError, match="--allow_change: config.x is no sett"):
    train.train_and_evaluate(changed, str(cut), ["x"])
  # As if it had stopped before it could save: only config.json has the change.
  shutil.rmtree(cut / "checkpoints" / "6")
  record = evaluate.evaluate_workdir(str(cut), "validation", False)
  assert record["step"] == 3
  assert_same(train.train_and_evaluate(changed, str(cut)), state)


def test_a_run_whose_checkpoints_are_gone_is_not_repeated(tmp_path, whole):
  """Fails if the metrics of days are replaced by those of a new start."""
  folder = whole.copy(tmp_path / "run")
  shutil.rmtree(folder / "checkpoints")
  path = folder / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 7}\n')
  before = list_files(folder)
  with pytest.raises(ValueError, match="up to step 7 and no checkpoint: rest"):
    train.train_and_evaluate(make(train__num_steps=9), str(folder))
  assert list_files(folder) == before


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
  stored = config_json.read_config(str(whole.folder))
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
    return original(*args)

  before, original = {}, train.compile_steps
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


def test_looking_at_a_run_changes_no_number(tmp_path, whole, caplog):
  """Fails if a profile or TensorBoard changes the numbers of a run."""
  settings = dict(profile__steps=(4, 6), train__tensorboard=True)
  with caplog.at_level(logging.INFO, "slim"):
    watched = train.train_and_evaluate(make(**settings), str(tmp_path / "x"))
  assert_same(whole.state, watched)
  assert read(whole.folder) == read(tmp_path / "x")
  names = {path.name for path in whole.folder.iterdir()}
  files = {".lock", "config.json", "log.txt", "metrics.jsonl"}
  assert names == files | {"checkpoints"}
  assert list((tmp_path / "x").glob("events.out.tfevents.*"))
  assert f"trace of training steps: {tmp_path}/x/profile" in caplog.messages
  [path] = (tmp_path / "x" / "profile").rglob("*.trace.json.gz")
  traced = [
    int(event["args"]["step_num"])
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    if event.get("name") == "train"
  ]
  assert traced == [4, 5, 6]


def test_settings_can_be_printed(tmp_path):
  """Fails if a user cannot see what a command would train."""
  line = [
    f"--config={ROOT}/configs/quickstart.py",
    f"--workdir={tmp_path}/run",
    "--config.seed=3",
    "--print_config",
  ]
  done = run_command(train.main, *line)
  assert (done.code, done.errors) == (0, "")
  printed = done.output.splitlines()
  assert "--config.seed=3" in printed
  assert not list(tmp_path.iterdir())
  again = run_command(train.main, *line[:2], *printed, "--print_config")
  assert again.output == done.output


def test_products_have_the_precision_of_the_config(tmp_path, monkeypatch):
  """Fails if training ignores it, which no CPU would show."""
  found, compile_steps = [], train.compile_steps

  def noting(*args):
    found.append(jax.config.jax_default_matmul_precision)
    return compile_steps(*args)

  monkeypatch.setattr(train, "compile_steps", noting)
  settings = make(train__num_steps=1, matmul_precision="high")
  train.train_and_evaluate(settings, str(tmp_path))
  assert found == ["high"]
