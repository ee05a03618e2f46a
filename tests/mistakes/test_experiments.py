"""Scripts of experiments/: a mistake ends in one line at once."""

import functools
import importlib.util
import sys

import pytest
from absl.testing import flagsaver

from slim import command_line
from tests.commands import assert_refused, list_files, run_command
from tests.mistakes.cases import ROOT


@pytest.fixture
def run_experiment(monkeypatch):
  """Runs a script of experiments/, and removes its imports again."""
  folder = ROOT / "experiments"
  monkeypatch.syspath_prepend(folder)
  names = {path.stem for path in folder.glob("*.py")}
  with flagsaver.flagsaver():
    yield lambda name, *arguments: run_command(
      functools.partial(command_line.run, importlib.import_module(name).main),
      *arguments,
    )
  for name in names & set(sys.modules):
    del sys.modules[name]


@pytest.mark.parametrize(
  ("name", "arguments", "words"),
  [
    ("gradient_error", [], "--text is missing: File to train and measure on."),
    ("gradient_error", ["--text=none"], "--text=none: path: cannot read 'none"),
    ("gradient_error", ["--text=text.gz"], "compressed by gzip: unpack it"),
    (
      "gradient_error",
      ["--text=text", "--configurations=I,V"],
      "--configurations=I,V: must be some of I, II, III, IV, with commas",
    ),
    ("gradient_error", ["--text=text", "--steps=0"], "--steps=0: 0 is not a"),
    ("duplication", ["--workdir=gs://bucket/x"], "must be a path on this mach"),
    ("duplication", ["--workdir="], "--workdir=: it must be a path, got ''"),
    (
      "duplication",
      ["--workdir=text"],
      "--workdir must be a folder, got text/",
    ),
    ("learning_curves", ["--tasks=none"], "must be some of copying, ptb, en"),
    ("learning_curves", ["--ptb=none"], "there is no such file or folder"),
    (
      "learning_curves",
      ["--tasks=copying", "--runs=slam"],
      "--runs must be some of full, full-seed, slim-128, slim-64,",
    ),
    ("learning_curves", ["--steps=-1"], "--steps=-1: -1 is not a non-negative"),
    ("finetune", [], "--run is missing: train with experiments/learning_cur"),
    ("finetune", ["--run=none"], "must be the folder of a run, with a config"),
    ("finetune_rates", [], "--run is missing: train with experiments/learning"),
    (
      "peers_libraries",
      ["--newer_python=none"],
      "--newer_python=none: there is no such program",
    ),
    (
      "peers_libraries",
      ["--workdir=text"],
      "--workdir must be a folder, got text",
    ),
    ("peers", ["--rounds=0"], "--rounds=0: 0 is not a positive"),
  ],
)
def test_a_wrong_experiment_starts_nothing(
  run_experiment, name, arguments, words
):
  """Fails if an hour of measuring ends in a traceback."""
  before = list_files(".")
  assert_refused(run_experiment(name, *arguments), words)
  assert list_files(".") == before
