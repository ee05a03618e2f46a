"""The command that measures the memory of a config."""

import pathlib
import re

import jax
import pytest

from slim.memory import __main__ as command
from slim.memory import timeline
from slim.targets import HERE, Target
from slim.training import build
from slim.training.compiled import compile_gradient_step
from slim.training.gradients import COMPILER_OPTIONS
from tests.commands import run_command
from tests.helpers import SMALL, make_config

ROOT = pathlib.Path(__file__).parents[2]


def make(**settings):
  """Returns settings of a small model; dots in names are written as __."""
  defaults = SMALL | dict(
    gradient__chunk_size=4,
  )
  return make_config(**(defaults | settings)).lock()


def test_program_is_that_of_training(monkeypatch):
  """Fails if the report describes another program than training runs."""
  calls = []

  def spy(*args, compiler_options, target):
    calls.append((compiler_options, jax.config.jax_default_matmul_precision))
    assert target == HERE
    return timeline.analyze(*args, compiler_options=compiler_options)

  monkeypatch.setattr(command, "analyze", spy)
  config = make(gradient__method="full", model__dropout=0.1)
  [(method, report, _)] = command.analyze_config(config)
  assert method == "full"
  assert calls == [(COMPILER_OPTIONS, config.matmul_precision)]
  experiment = build.create_experiment(config)
  params = jax.eval_shape(lambda: build.init(experiment)).params
  batch = build.create_split(config, "train", 4).batch(0)
  with jax.default_matmul_precision(config.matmul_precision):
    compiled, activation_bytes = compile_gradient_step(
      experiment.gradient_steps["full"], params, batch
    )
  assert report.temporary_bytes == activation_bytes
  memory = compiled.memory_analysis()
  assert report.argument_bytes == memory.argument_size_in_bytes


def test_command_line(tmp_path):
  """Fails if the command does not run, or reads the data."""
  output = tmp_path / "memory.svg"
  done = run_command(
    command.main,
    f"--config={ROOT}/configs/shakespeare_slim.py:smoke",
    "--config.mesh=data=1",
    "--config.data.path=no/such/file",
    "--config.gradient.method=full_then_slim",
    f"--output={output}",
  )
  assert (done.code, done.errors) == (0, "")
  lines = done.output.splitlines()
  for method in ("full", "slim"):
    start = lines.index(f"gradient by {method}, MiB")
    values = {
      line.split()[0]: float(line.split()[1])
      for line in lines[start + 1 : start + 5]
    }
    assert values["total"] == pytest.approx(
      values["arguments"] + values["outputs"] + values["activations"], abs=0.02
    )
    largest = float(lines[start + 6].split()[0])
    assert 0 < largest < values["activations"]
    assert "slim/models/layers.py:" in lines[start + 6]
  assert output.read_text().startswith("<?xml")


def test_invalid_setting_raises():
  """Fails if a wrong setting is not named."""
  with pytest.raises(ValueError, match="config.gradient.method must be one of"):
    next(command.analyze_config(make(gradient__method="slimm")))


def test_a_target_is_described():
  """Fails if what fits or how long it takes is left out, or is of another."""
  config = make(gradient__method="full")
  [(method, report, _)] = command.analyze_config(config)
  assert not command.describe_target(config, method, report, 0, HERE)
  text = command.describe_target(config, method, report, 0, Target("tpu:v5e"))
  assert re.fullmatch(
    r"fits tpu:v5e: needs [\d.]+ KiB of 15.8 GiB, with [\d.]+ KiB for the "
    r"optimizer, compiled with effort O0\n"
    r"takes at least [\d.e-]+ ms, by the roofline of [\d.e+,]+ operations\n",
    text,
  )
  large = report._replace(temporary_bytes=2**40)
  for found, update_bytes in ((large, 0), (report, 2**40)):
    text = command.describe_target(
      config, method, found, update_bytes, Target("cuda:h100")
    )
    assert text.startswith("does not fit cuda:h100: needs 1.0 TiB of 59.3 GiB")
  assert command.find_update_bytes(config, HERE) > 0
