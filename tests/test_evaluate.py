"""Evaluation of a run, in windows and with a carried state."""

import json
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim import (
  config,
  evaluate,
)
from slim.runs.checkpoints import Checkpointer
from slim.runs.config_json import write_config
from slim.runs.fingerprints import fingerprint_data
from slim.runs.restoring import restore_newest
from slim.training import build
from slim.training.losses import cross_entropy_sums
from tests.commands import assert_refused, list_files, run_command

# There are few programs, and rounding does not matter.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def settings(path):
  """Returns the config of a fast run on a text."""
  result = config.base()
  result.model.width = 16
  result.model.num_layers = 1
  result.model.num_heads = 2
  result.data.name = "text"
  result.data.path = str(path)
  result.data.sequence_length = 16
  result.gradient.chunk_size = 5
  result.train.batch_size = 4
  return result


@pytest.fixture(scope="module")
def run(tmp_path_factory, compilation_cache):
  """A run with one checkpoint, and its folder."""
  folder = tmp_path_factory.mktemp("run")
  path = folder / "text.txt"
  path.write_bytes(np.random.default_rng(0).bytes(4000))
  configuration, workdir = settings(path), str(folder / "run")
  record = write_config(workdir, configuration, "data")
  experiment = build.create_experiment(configuration)
  state = jax.jit(lambda: build.init(experiment))()
  checkpointer = Checkpointer(workdir, 1)
  record["fingerprints"] = fingerprint_data(configuration)
  checkpointer.save(state._replace(step=jnp.int32(3)), record)
  checkpointer.close()
  return configuration, workdir, state


def test_windows_give_the_loss_of_training(run):
  """Fails if training and evaluation measure different losses."""
  configuration, folder, state = run
  record = evaluate.evaluate_workdir(folder, "validation", False)
  restored, _ = restore_newest(folder, jax.eval_shape(lambda: state))
  chex.assert_trees_all_equal(restored.params, state.params)
  assert restored.step == 3  # It was only read.
  experiment = build.create_experiment(configuration)
  dataset = build.create_split(configuration, "validation", 4)
  apply = jax.jit(experiment.model.apply)
  sums = jax.jit(cross_entropy_sums)
  total = np.zeros(3)
  for batch in dataset.evaluation_batches():
    logits, _ = apply(
      state.params, batch.inputs, experiment.model.init_state(4)
    )
    total += sums(logits, batch.targets, batch.weights)
  assert record["tokens"] == total[2] == 199
  np.testing.assert_allclose(record["eval/loss"], total[0] / 199, rtol=1e-5)
  np.testing.assert_allclose(record["eval/accuracy"], total[1] / 199)


def test_carried_state_gives_the_loss_of_one_long_sequence(run):
  """Fails if a state is lost between two windows."""
  configuration, folder, state = run
  record = evaluate.evaluate_workdir(folder, "test", True)
  configuration = settings(configuration.data.path)
  configuration.data.sequence_length = 199  # The split has 200 bytes.
  experiment = build.create_experiment(configuration)
  dataset = build.create_split(configuration, "test", 1)
  [batch] = dataset.evaluation_batches()
  logits, _ = jax.jit(experiment.model.apply)(
    state.params, batch.inputs, experiment.model.init_state(1)
  )
  sums = jax.jit(cross_entropy_sums)(logits, batch.targets, batch.weights)
  assert record["tokens"] == 199
  np.testing.assert_allclose(record["eval/loss"], sums.nll / 199, rtol=1e-5)


def test_the_record_says_which(run):
  """Fails if a record does not say whether the state was carried."""
  _, folder, _ = run
  path = pathlib.Path(folder) / "evaluations.jsonl"
  path.unlink(missing_ok=True)
  records = []
  for carry in (False, True):
    records.append(evaluate.evaluate_workdir(folder, "validation", carry))
    evaluate.save_record(folder, records[-1])
  assert [json.loads(x) for x in path.read_text().splitlines()] == records
  assert [record["carry_state"] for record in records] == [False, True]
  assert [record["data"] for record in records] == ["text", "text"]
  assert "(199 tokens of text, " in evaluate.describe(records[0])
  assert "windows of 16 tokens from the zero" in evaluate.describe(records[0])
  assert "one state carried through" in evaluate.describe(records[1])


def test_a_result_is_shown_before_it_is_written(run, tmp_path):
  """Fails if a read-only or full disk loses a result, or NaN is written."""
  folder = shutil.copytree(run[1], tmp_path / "run")
  (folder / "evaluations.jsonl").unlink(missing_ok=True)
  (folder / "evaluations.jsonl").mkdir()
  done = run_command(evaluate.main, f"--workdir={folder}")
  assert done.code == 1 and "validation loss " in done.output
  assert done.errors == (
    f"error: cannot write {folder}/evaluations.jsonl: Is a directory: free "
    "space there\n"
  )
  bad = {"step": 3, "eval/loss": float("nan")}
  with pytest.raises(
    ValueError, match="eval/loss is nan, so it is not recorded"
  ):
    evaluate.save_record(run[1], bad)


def test_a_checkpoint_is_evaluated_alone(run, tmp_path):
  """Fails if a copied checkpoint needs its run, or is changed."""
  alone = tmp_path / "alone"
  shutil.copytree(pathlib.Path(run[1]) / "checkpoints" / "3", alone)
  before = list_files(alone)
  right = evaluate.evaluate_workdir(run[1], "test", True)
  assert evaluate.evaluate_workdir(str(alone), "test", True) == right
  evaluate.save_record(str(alone), right)
  assert list_files(alone) == before


def pretend_to_load(monkeypatch, configuration):
  """Loads a run of these settings, whose data has changed since."""
  experiment = build.create_experiment(configuration)
  found = configuration, experiment, None, {"fingerprints": {"train": "other"}}
  monkeypatch.setattr(evaluate, "load_run", lambda *_: found)


def test_a_carried_state_needs_a_text(tmp_path, monkeypatch):
  """Fails if a state is carried between unrelated sequences."""
  pretend_to_load(monkeypatch, config.base())
  with pytest.raises(ValueError, match="needs a text, .*'copying'"):
    evaluate.evaluate_workdir(str(tmp_path), "validation", True)


@pytest.mark.parametrize("attention", ["softmax", "lsh"])
def test_a_carried_state_has_one_size(monkeypatch, attention):
  """Fails if a cache is carried through a split, or no state at all."""
  configuration = config.base()
  configuration.model.attention = attention
  configuration.gradient.method = "full"
  pretend_to_load(monkeypatch, configuration)
  with pytest.raises(ValueError, match="needs a state of fixed size, such as"):
    evaluate.evaluate_workdir("run", "validation", True)


def test_learned_positions_end_with_a_window(monkeypatch):
  """Fails if the loss is NaN from the second window on."""
  configuration = config.base()
  configuration.model.positions = "learned"
  pretend_to_load(monkeypatch, configuration)
  with pytest.raises(ValueError, match="positions='learned' has positions for"):
    evaluate.evaluate_workdir("run", "validation", True)


def test_a_corpus_can_carry_a_state(tmp_path, monkeypatch):
  """Fails if PTB and enwik8 can be scored in windows only."""
  (tmp_path / "text").write_bytes(bytes(4000))
  configuration = settings(tmp_path / "text")
  configuration.data.name = "enwik8"
  pretend_to_load(monkeypatch, configuration)
  with pytest.raises(ValueError, match="is no longer what the run in"):
    evaluate.evaluate_workdir(str(tmp_path), "validation", True)


def test_a_run_without_checkpoint_is_an_error(tmp_path):
  """Fails if random weights are evaluated."""
  write_config(str(tmp_path), config.base(), "data")
  with pytest.raises(ValueError, match="has no checkpoint yet"):
    evaluate.evaluate_workdir(str(tmp_path), "validation", False)


def test_command_line(run):
  """Fails if the command of the README does not run."""
  line = [f"--workdir={run[1]}", "--split=test"]
  done = run_command(evaluate.main, *line, "--carry_state")
  assert (done.code, done.errors, done.output.count("\n")) == (0, "", 1)
  assert "test loss " in done.output
  done = run_command(evaluate.main, *line, "--data_path=none")
  assert_refused(done, "config.data.path: cannot read 'none': No such")
  done = run_command(evaluate.main, *line, "--document_lengths=none")
  assert_refused(done, "config.data.document_lengths: cannot read 'none'")
  done = run_command(evaluate.main, *line, "--step=4")
  assert_refused(done, "got '4'")
  done = run_command(evaluate.main, *line, "--data_path=gs://bucket/text")
  assert_refused(done, "--data_path must be a path on this machine")


def test_data_that_has_moved_can_be_named(run, tmp_path):
  """Fails if a run whose file was moved cannot be evaluated."""
  configuration, workdir, _ = run
  before = evaluate.evaluate_workdir(workdir, "test", carry_state=False)
  path = pathlib.Path(configuration.data.path)
  moved = path.rename(tmp_path / "moved.txt")
  with pytest.raises(ValueError) as error:
    evaluate.evaluate_workdir(workdir, "test", carry_state=False)
  message = str(error.value)
  assert message.startswith(f"config.data.path: cannot read '{path}': No such")
  assert message.endswith("pass its location with --data_path")
  after = evaluate.evaluate_workdir(workdir, "test", False, str(moved))
  assert after == before
  moved.write_bytes(np.random.default_rng(1).bytes(4000))
  with pytest.raises(
    ValueError, match="train split of .*moved.txt is no longer what the run in"
  ):
    evaluate.evaluate_workdir(workdir, "test", False, str(moved))
  path.write_bytes(np.random.default_rng(0).bytes(4000))


def test_another_text_is_refused(run, tmp_path):
  """Fails if bytes that were trained on are scored as held out."""
  other = tmp_path / "other.txt"
  other.write_bytes(np.random.default_rng(1).bytes(4000))
  with pytest.raises(
    ValueError, match="train split of .*other.txt is no longer what the run in"
  ):
    evaluate.evaluate_workdir(run[1], "test", False, str(other))
