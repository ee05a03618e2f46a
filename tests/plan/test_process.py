"""Budgets against the peak resident size of processes; the command line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import slim.plan.__main__ as plan
from slim.plan import Candidate, CompiledMemory, GradientChoice, Plan
from slim.plan.time_estimate import PredictedTime
from tests.commands import run_command

ROOT = pathlib.Path(__file__).parents[2]
MIB = 2**20

# A small model of 131,072 tokens: little work, much memory.
MODEL = [
  "--config=configs/quickstart.py",
  "--config.model.width=64",
  "--config.model.num_layers=1",
  "--config.train.batch_size=32",
  "--config.data.sequence_length=4096",
]
RUN = [
  "--config.train.num_steps=2",
  "--config.train.eval_batches=1",
]
# Runs a module and prints the peak resident size of its process. getrusage
# would include the size of the parent process.
PROGRAM = """
import pathlib, runpy, sys
module = sys.argv.pop(1)
try:
  runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
  status = pathlib.Path("/proc/self/status")
  text = status.read_text() if status.exists() else "VmHWM: 0"
  print(text.split("VmHWM:")[1].split()[0])
"""
# Prints the planned activations, and how much the process grows.
GROWTH = """
import pathlib, jax
from slim.training import build
from slim.training.compiled import compile_gradient_step
from slim.plan.candidates import with_choice
from slim.plan.gradient_choice import GradientChoice
from tests.helpers import make_config

def size(name):
  lines = pathlib.Path("/proc/self/status").read_text().splitlines()
  return next(int(x.split()[1]) for x in lines if x.startswith(name)) * 1024

config = make_config(model__width=64, data__sequence_length=4096)
# The largest goes first: it allocates the workspace that all of them use.
for choice in (
  GradientChoice("full", None, None, False),
  GradientChoice("slim", 2048, "rewind", False),
):
  experiment = build.create_experiment(with_choice(config, choice))
  params = jax.jit(experiment.model.init)(experiment.init_key)
  batch = build.create_split(config, "train", config.train.batch_size)
  batch = jax.tree.map(jax.numpy.asarray, batch.batch(0))
  step, compiled = compile_gradient_step(
    experiment.gradient_steps[choice.method], params, batch
  )
  before = size("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
  jax.block_until_ready(step(params, batch, jax.numpy.int32(0)))
  print(compiled, size("VmHWM") - before)
"""


def call(cache, module, *arguments):
  """Runs a command; returns its output, its log and its size in bytes."""
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM, f"slim.{module}", *MODEL, *arguments],
    cwd=ROOT,
    env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
    capture_output=True,
    text=True,
  )
  *lines, size = done.stdout.splitlines()
  return lines, done.stderr, int(size) * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_run_stays_in_its_budget(tmp_path):
  """Fails if a run exceeds its budget, or is slower than necessary."""
  budget = [
    "--config.gradient.chunk_size=None",
    "--config.gradient.memory_budget=1.25GiB",
  ]
  first = f"--workdir={tmp_path}/a", *RUN, *budget
  _, log, size = call(tmp_path / "cache", "train", *first)
  assert "finished" in log, log
  assert size <= 1280 * MIB
  chosen = json.loads((tmp_path / "a" / "config.json").read_text())["config"]
  chosen = chosen["gradient"]
  assert chosen["method"] == "slim"
  # The next faster candidate does not fit.
  assert chosen["chunk_size"] == 2048
  arguments = [f"--workdir={tmp_path}/b", "--config.gradient.method=full"]
  other = tmp_path / "other"
  _, full_log, full_size = call(other, "train", *RUN, *arguments)
  assert full_size > 1280 * MIB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_process_grows_by_activations():
  """Fails if the memory of a process differs from what XLA reports."""
  done = subprocess.run(
    [sys.executable, "-c", GROWTH], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  for line in done.stdout.splitlines():
    compiled, grown = map(int, line.split())
    assert compiled > 300 * MIB
    assert grown == pytest.approx(compiled, rel=0.15)


def test_command_line():
  """Fails if the command does not run, or its last line is no flag."""
  done = run_command(
    plan.main,
    f"--config={ROOT}/configs/quickstart.py:smoke",
    "--config.mesh=data=1",
    "--config.model.width=16",
    "--config.data.sequence_length=32",
    "--config.model.norm=post",
    "--budget=1TiB",
  )
  assert (done.code, done.errors) == (0, "")
  lines = done.output.splitlines()
  assert lines[0].split() == ["gradient", "C", "time", "estimate"] + [
    "activations",
    "total",
  ]
  assert lines[1].split()[0] == "full" and lines[1].endswith("fits")
  assert lines[-2].startswith("total = activations + parameters ")
  assert lines[-1] == "--config.gradient.method=full"


def test_small_budget_raises_one_line(monkeypatch):
  """Fails if the command succeeds although nothing fits."""
  full = GradientChoice("full", None, None, False)
  memory = CompiledMemory(activation_bytes=2**20, total_bytes=2**21)
  candidate = Candidate(full, PredictedTime(1.0), None, memory)
  monkeypatch.setattr(
    "slim.plan.__main__.plan_config",
    lambda config, budget, _: Plan((candidate,), budget, {}),
  )
  config = f"--config={ROOT}/configs/quickstart.py:smoke"
  done = run_command(plan.main, config, "--budget=1KiB")
  assert done.code == 1
  assert done.output.splitlines()[0].startswith("gradient")
  assert done.errors == (
    "error: --budget must be at least 2.0 MiB, of which activations are 1.0 MiB"
    " (full), got 1.0 KiB\n"
  )
