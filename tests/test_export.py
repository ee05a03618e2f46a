"""Weights exported from a run, and used by another."""

import os
import pathlib
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from slim import (
  config,
  export,
  train,
)
from slim.runs import (
  metrics,
  weights,
)
from slim.training import build
from tests.commands import assert_refused, run_command
from tests.helpers import SMALL, make_config

# There are few programs, and rounding does not matter.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def make(**settings):
  """Returns the config of a fast run; dots in names are written as __."""
  defaults = SMALL | dict(
    gradient__method="full",
    train__num_steps=2,
    train__eval_every=1,
    train__eval_batches=1,
    train__checkpoint_every=1,
  )
  return make_config(**(defaults | settings)).lock()


@pytest.fixture(scope="module")
def run(tmp_path_factory, compilation_cache):
  """A run of two steps, the state it ended with, and a file of its weights."""
  folder = tmp_path_factory.mktemp("run")
  state = train.train_and_evaluate(make(), str(folder / "run"))
  path = folder / "model.safetensors"
  assert export.export_workdir(str(folder / "run"), str(path)) == 2
  return str(folder / "run"), state, str(path)


def evaluations(folder):
  """Returns the validation losses by step."""
  records = metrics.read_records(f"{folder}/metrics.jsonl")
  return {r["step"]: r["eval/loss"] for r in records if "eval/loss" in r}


def test_the_newest_weights_are_exported(run):
  """Fails if a file holds older weights, or rounded ones."""
  _, state, path = run
  params, settings = weights.load_weights(path)
  chex.assert_trees_all_equal(params, state.params)
  assert config.flatten(settings) == config.flatten(make())
  with safetensors.safe_open(path, framework="numpy") as file:
    assert file.metadata()["step"] == "2"


def test_any_checkpoint_can_be_exported(run, tmp_path):
  """Fails if only the newest weights can be had."""
  losses = evaluations(run[0])
  best = min(losses, key=losses.get)
  for step, expected in (("1", 1), ("2", 2), ("best", best)):
    output = str(tmp_path / f"{step}.safetensors")
    assert export.export_workdir(run[0], output, step) == expected
  for step, message in (
    ("3", "a step with a checkpoint, of which there are 1, 2, got '3'"),
    ("last", "must be 'latest', 'best' or a step"),
  ):
    with pytest.raises(ValueError, match=message):
      export.export_workdir(run[0], str(tmp_path / "x"), step)
  with pytest.raises(ValueError, match="must be 'latest' for one checkpoint"):
    export.export_workdir(f"{run[0]}/checkpoints/1", str(tmp_path / "x"), "1")
  copy = str(tmp_path / "run")
  shutil.copytree(run[0], copy)
  shutil.rmtree(f"{copy}/checkpoints/{best}")
  assert export.export_workdir(copy, str(tmp_path / "x"), "best") == 3 - best
  os.remove(f"{copy}/metrics.jsonl")
  with pytest.raises(ValueError, match="--step=best needs a checkpoint of a"):
    export.export_workdir(copy, str(tmp_path / "y"), "best")


def test_the_exported_weights_can_be_used_inside_jit(run):
  """Fails if a traced token cannot look up a row of the table."""
  params, settings = weights.load_weights(run[2])
  model = build.create_experiment(settings).model
  tokens = np.arange(8, dtype=np.int32)[None]

  def apply(tokens):
    return model.apply(params, tokens, model.init_state(1))[0]

  expected, _ = jax.jit(model.apply)(run[1].params, tokens, model.init_state(1))
  np.testing.assert_allclose(jax.jit(apply)(tokens), expected, rtol=1e-5)


def start_settings(run, num_steps):
  """Returns a config that starts from the file and learns nothing."""
  return make(
    train__init_from=run[2],
    train__num_steps=num_steps,
    optimizer__learning_rate=1e-30,
  )


def test_a_run_starts_with_the_exported_weights(run):
  """Fails if the file does not hold the trained weights."""
  settings = start_settings(run, 1)
  model = build.create_model(settings)
  params = weights.load_initial_params(settings, model)
  chex.assert_trees_all_equal(params, run[1].params)


@pytest.mark.parametrize("which", ["run", "run/checkpoints/1"])
def test_a_run_starts_from_another_run(run, which):
  """Fails if fine-tuning needs an export, or starts from another step."""
  folder = pathlib.Path(run[0]).parent / which
  settings = make(train__init_from=str(folder))
  model = build.create_model(settings)
  params = weights.load_initial_params(settings, model)
  equal = jax.tree.map(jnp.array_equal, params, run[1].params)
  assert all(jax.tree.leaves(equal)) == (which == "run")


def test_a_run_from_a_file_reads_it_once(run, tmp_path):
  """Fails if the first loss differs, or a resume needs the file."""
  train.train_and_evaluate(start_settings(run, 1), str(tmp_path))
  assert evaluations(tmp_path)[1] == evaluations(run[0])[2]
  path = pathlib.Path(run[2])
  path.rename(f"{path}.moved")
  train.train_and_evaluate(start_settings(run, 2), str(tmp_path))
  pathlib.Path(f"{path}.moved").rename(path)
  assert evaluations(tmp_path)[2] == evaluations(run[0])[2]


def test_a_run_without_checkpoint_is_an_error(tmp_path):
  """Fails if weights that were never trained are exported."""
  train.write_config(str(tmp_path), make(), "data")
  with pytest.raises(ValueError, match="has no checkpoint yet"):
    export.export_workdir(str(tmp_path), str(tmp_path / "x"))
  assert not (tmp_path / "x").exists()


def test_weights_are_written_to_a_home(run, tmp_path, monkeypatch):
  """Fails if the file goes to a folder named "~"."""
  monkeypatch.setenv("HOME", str(tmp_path))
  export.export_workdir(run[0], "~/x")
  assert weights.load_weights("~/x")[1].seed == 0
  assert (tmp_path / "x").exists()


def test_command_line(run, tmp_path):
  """Fails if the command of the README does not run."""
  output = f"{tmp_path}/x.safetensors"
  line = [f"--workdir={run[0]}", f"--output={output}"]
  done = run_command(export.main, *line)
  assert (done.code, done.errors) == (0, "")
  assert done.output == f"{output}: the weights of {run[0]} after step 2\n"
  again = run_command(export.main, *line)
  assert_refused(again, f"--output must be a new file, and {output} exists")
