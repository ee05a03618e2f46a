"""Every command with a complete command line."""

import importlib.util
import pathlib

import slim.certify.__main__ as certify
import slim.memory.__main__ as memory
import slim.plan.__main__ as plan
from slim import evaluate, export, train
from tests.commands import assert_refused, list_files, run_command

ROOT = pathlib.Path(__file__).parents[2]


def load_script(name):
  """Imports a file of `scripts/`."""
  path = ROOT / "scripts" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


CONFIG = f"--config={ROOT}/configs/quickstart.py:smoke"
# The suite has eight devices, and these configs have too few sequences for all.
MESH = "--config.mesh=data=1"
# Each command with a complete command line.
COMMANDS = {
  "train": (train.main, CONFIG, "--workdir=run"),
  "evaluate": (evaluate.main, "--workdir=run"),
  "export": (export.main, "--workdir=run", "--output=x"),
  "certify": (certify.main, CONFIG),
  "plan": (plan.main, CONFIG, "--budget=1GiB"),
  "memory": (memory.main, CONFIG),
  "sweep": (load_script("sweep").main, CONFIG, "--workdir=run", "--values=1"),
}


def refuse(name, *arguments, replacing=True):
  """Runs a command with other arguments; returns its error line."""
  main, *line = COMMANDS[name]
  if replacing:
    if name in ("train", "plan", "memory"):
      line.append(MESH)
    given = {argument.partition("=")[0] for argument in arguments}
    line = [x for x in line if x.partition("=")[0] not in given]
  before = list_files(".")
  done = run_command(main, *line, *arguments)
  assert_refused(done)
  assert list_files(".") == before
  return done.errors
