"""Certificates of the models of configs, and the command line."""

import json
import math
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import slim.certify.__main__ as certify
from slim.certify import Certificate, Check, from_config
from slim.certify.from_config import certify_config
from slim.certify.gradients import compile_fast
from slim.training.gradients import make_value_and_grad
from tests.commands import assert_refused, run_command
from tests.helpers import SMALL, make_config

ROOT = pathlib.Path(__file__).parents[2]
SLIM = SMALL | dict(
  data__sequence_length=64, gradient__method="slim", model__num_layers=2
)


# `make test` certifies one small model, in test_command_line.
@pytest.mark.parametrize(
  "settings",
  [
    pytest.param(
      dict(gradient__policy="rewind", model__num_layers=1),
      marks=pytest.mark.full,  # The quickstart below covers it.
    ),
    pytest.param(
      dict(
        gradient__policy="rewind",
        model__feature_map="favor",
        model__qk_norm=True,
        model__dtype="bfloat16",
      ),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      dict(
        gradient__policy="store",
        model__reversible=True,
        model__norm="pre",
        model__dropout=0.2,
      ),
      marks=pytest.mark.full,
    ),
    pytest.param(
      dict(
        data__name="text",
        data__path="nowhere",
        data__vocab_size=256,
        data__pack_documents=10,
        model__num_layers=1,
      ),
      marks=pytest.mark.slow,
    ),
  ],
  ids=["rewind", "favor-bfloat16", "reversible-dropout", "documents"],
)
def test_models_pass(settings):
  """Fails if a model has a wrong gradient, or a correct one is rejected."""
  certificate = certify_config(make_config(**SLIM | settings))
  assert certificate.ok, f"{certificate}\n{certificate.describe_failure()}"


def test_wrong_training_gradient_fails(one_size, monkeypatch):
  """Fails if what training calls is not checked, or fails although right."""
  check = from_config._check_training
  found, scale = {}, 1

  def make_once(*args, method, **settings):
    value_and_grad = compile_fast(
      make_value_and_grad(*args, method=method, **settings)
    )

    def scaled(*args):
      if method not in found:
        found[method] = value_and_grad(*args)
      sums, gradients = found[method]
      factor = scale if method == "slim" else 1
      return sums, jax.tree.map(lambda x: factor * np.asarray(x), gradients)

    return scaled

  def check_twice(*args):
    nonlocal scale
    right = check(*args)
    scale = 1.001
    return [*right, *check(*args)]

  module = "slim.certify.from_config"
  monkeypatch.setattr(f"{module}.make_value_and_grad", make_once)
  monkeypatch.setattr(f"{module}.compile_fast", lambda fn: fn)
  monkeypatch.setattr(f"{module}._check_training", check_twice)
  # The other checks take most of the time.
  monkeypatch.setattr(f"{module}.certify_calls", lambda *_: Certificate(()))
  settings = dict(gradient__policy="store", model__num_layers=1)
  right, wrong = certify_config(make_config(**SLIM | settings)).checks
  assert right.ok, right
  line = Certificate((wrong,)).describe_failure()
  assert line.startswith("gradient of params in training of "), line


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      dict(gradient__method="full"),
      r"config.gradient.method must be 'slim' or 'full_then_slim' to have",
    ),
    (
      dict(data__sequence_length=14),
      "config.data.sequence_length must be at least 15 to be cut",
    ),
  ],
)
def test_config_without_chunks_raises(settings, message):
  """Fails if the error comes from inside, or nothing is certified."""
  with pytest.raises(ValueError, match=message):
    certify_config(make_config(**SLIM | settings))


def run(*arguments):
  """Runs the command on a small model."""
  return run_command(
    certify.main,
    f"--config={ROOT}/configs/quickstart.py:smoke",
    "--config.model.width=8",
    "--config.model.mlp_width=8",
    "--config.model.num_layers=1",
    "--config.data.sequence_length=32",
    "--config.gradient.policy=store",
    *arguments,
  )


def test_command_line(one_size, monkeypatch, tmp_path):
  """Fails if the command does not run, or writes no file."""
  monkeypatch.setattr(  # The test of a wrong gradient does it.
    "slim.certify.from_config._check_training", lambda *_: []
  )
  output = tmp_path / "certificate.json"
  done = run(f"--output={output}")
  assert done.code == 0
  assert "gradient of params" in done.output
  assert done.output.endswith("gradient is that of the whole sequence\n")
  found = json.loads(output.read_text())
  assert found["ok"]
  assert {check["dtype"] for check in found["checks"]} == {"float32", "float64"}


def test_failure_is_one_line(monkeypatch, tmp_path):
  """Fails if a wrong gradient exits with 0, or leaves no file."""
  failed = Check("outs", "", "float64", 4, 0.5, 1e-9, "a cause")
  worse = failed._replace(value=math.inf)
  monkeypatch.setattr(
    "slim.certify.__main__.certify_config",
    lambda *_: Certificate((failed, worse)),
  )
  output = tmp_path / "certificate.json"
  done = run(f"--output={output}")
  assert done.code == 1
  assert "FAILED" in done.output
  assert done.errors == (
    "error: outs in float64, C = 4 is 0.5, must be at most 1e-09: a cause "
    "(1 more checks failed)\n"
  )
  found = json.loads(output.read_text())
  assert not found["ok"] and "Infinity" not in output.read_text()
  assert [check["value"] for check in found["checks"]] == [0.5, None]


def test_a_mesh_is_not_certified_in_silence(monkeypatch):
  """Fails if the gradient of a mesh seems to be checked."""
  monkeypatch.setattr(
    "slim.certify.__main__.certify_config", lambda *_: Certificate(())
  )
  line = "on one device: the gradient of config.mesh is not checked"
  assert line not in run().output
  done = run("--config.mesh=data=2")
  assert (done.code, done.output.splitlines()[0]) == (0, line)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("there.json", "--output must be a new file, and {} exists: choose"),
    ("no/folder.json", "--output: cannot write {}: its folder does not exist"),
  ],
)
def test_unwritable_output_is_refused_first(tmp_path, name, message):
  """Fails if a file is overwritten, or the work is done in vain."""
  (tmp_path / "there.json").write_text("old")
  done = run(f"--output={tmp_path / name}")
  assert_refused(done, message.format(tmp_path / name))
  assert (tmp_path / "there.json").read_text() == "old"


@pytest.mark.slow
def test_quickstart_in_process():
  """Fails if the command of the README does not run."""
  done = subprocess.run(
    [sys.executable, "-m", "slim.certify"]
    + [f"--config={ROOT}/configs/quickstart.py:smoke"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "gradient of params" in done.stdout
