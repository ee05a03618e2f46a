"""The memory of a config, from the command line."""

import pathlib

import jax
import pytest

from slim.memory import __main__ as command
from slim.memory import timeline
from slim.training import build
from slim.training.compiled import compile_gradient_step
from slim.training.gradients import COMPILER_OPTIONS
from tests.commands import run_command
from tests.helpers import SMALL, make_config

ROOT = pathlib.Path(__file__).parents[2]
# The programs are few, and nothing here asks about rounding.


def make(**settings):
  """Returns a run of seconds; dots in names are written as __."""
  defaults = SMALL | dict(
    gradient__chunk_size=4,
  )
  return make_config(**(defaults | settings)).lock()


def test_it_is_the_program_that_training_compiles(monkeypatch):
  """Without it the report would be of another gradient than a run needs."""
  calls = []

  def spy(*args, compiler_options):
    calls.append((compiler_options, jax.config.jax_default_matmul_precision))
    return timeline.analyse(*args, compiler_options=compiler_options)

  monkeypatch.setattr(command, "analyse", spy)
  config = make(gradient__method="full", model__dropout=0.1)
  [(method, report, _)] = command.analyse_config(config)
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
  """Without it the command of the README would not run, or need the data."""
  output = tmp_path / "memory.svg"
  done = run_command(
    command.main,
    f"--config={ROOT}/configs/shakespeare_slim.py:smoke",
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


def test_a_setting_that_does_not_fit_is_an_error():
  """Without it a mistake in a config would be answered by a traceback."""
  with pytest.raises(ValueError, match="config.gradient.method must be one of"):
    next(command.analyse_config(make(gradient__method="slimm")))
