"""Every command: a mistake ends in one line at once, and writes nothing."""

import functools
import gzip
import importlib.util
import pathlib
import sys
import zipfile

import jax
import pytest
from absl.testing import flagsaver

import slim.certify.__main__ as certify
import slim.memory.__main__ as memory
import slim.plan.__main__ as plan
from slim import command_line, evaluate, export, train
from tests.commands import assert_refused, list_files, run_command

ROOT = pathlib.Path(__file__).parents[1]


def load_script(name):
  """Imports a file of `scripts/`."""
  path = ROOT / "scripts" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


CONFIG = f"--config={ROOT}/configs/quickstart.py:smoke"
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
WITH_CONFIG = [name for name, line in COMMANDS.items() if CONFIG in line]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """The current folder with some files; compiling raises an error."""
  # Matplotlib writes to the home folder.
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  (tmp_path / "home").mkdir()
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  (here / "text").write_bytes(b"some text\n" * 300)
  (here / "text.gz").write_bytes(gzip.compress(b"some text\n" * 300))
  with zipfile.ZipFile(here / "text.zip", "w") as archive:
    archive.writestr("text", "some text\n")

  def compile_nothing(*args, **kwargs):
    raise AssertionError("something is compiled")

  monkeypatch.setattr(jax.stages.Lowered, "compile", compile_nothing)
  return here


def refuse(name, *arguments, replacing=True):
  """Runs a command with other arguments; returns its error line."""
  main, *line = COMMANDS[name]
  if replacing:
    given = {argument.partition("=")[0] for argument in arguments}
    line = [x for x in line if x.partition("=")[0] not in given]
  before = list_files(".")
  done = run_command(main, *line, *arguments)
  assert_refused(done)
  assert list_files(".") == before
  return done.errors


@pytest.mark.parametrize(
  ("name", "flag"),
  [
    ("train", "--workdir"),
    ("train", "--config"),
    ("evaluate", "--workdir"),
    ("export", "--workdir"),
    ("export", "--output"),
    ("certify", "--config"),
    ("certify", "--output"),
    ("plan", "--config"),
    ("memory", "--config"),
    ("memory", "--output"),
    ("sweep", "--workdir"),
    ("sweep", "--config"),
  ],
)
@pytest.mark.parametrize(
  ("path", "words"),
  [
    ("", "must be a path, got ''"),
    ("gs://bucket/x", "must be a path on this machine"),
    ("~no_such_user/x.svg", "there is no such user"),
    ("text/x", "text"),
  ],
)
def test_a_wrong_path_names_the_flag(name, flag, path, words):
  """Fails if minutes of work end in an error, or in a folder "~"."""
  line = refuse(name, f"{flag}={path}")
  assert flag in line and words in line


@pytest.mark.parametrize("name", ["train", "sweep"])
@pytest.mark.parametrize("path", ["text", "/proc/none", "x" * 300])
def test_a_folder_that_cannot_be_names_the_flag(name, path):
  """Fails if a run fails minutes later, at its first checkpoint."""
  assert "--workdir" in refuse(name, f"--workdir={path}")


@pytest.mark.parametrize("name", ["export", "certify", "memory"])
@pytest.mark.parametrize("path", ["text.svg", "/proc/none.svg"])
def test_a_file_that_cannot_be_names_the_flag(folder, name, path):
  """Fails if the results of minutes cannot be written."""
  (folder / "text.svg").touch()
  assert "--output" in refuse(name, f"--output={path}")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_flag_that_is_missing_or_given_twice_is_named(name):
  """Fails if it ends in a traceback, or the first value is ignored."""
  main, *line = COMMANDS[name]
  for argument in line:
    flag = argument.partition("=")[0]
    rest = [x for x in line if x != argument]
    assert_refused(run_command(main, *rest), f"error: {flag} is missing: ")
    line_twice = refuse(name, argument, replacing=False)
    assert f"{argument} is given twice" in line_twice
    assert_refused(run_command(main, *rest, flag), flag)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_flag_is_named(name):
  """Fails if a misspelt flag is ignored."""
  assert "'worddir'" in refuse(name, "--worddir=x")
  assert "'more'" in refuse(name, "more")
  assert "--flagfile" in refuse(name, "--flagfile=none")


@pytest.mark.parametrize("name", WITH_CONFIG)
@pytest.mark.parametrize(
  "setting",
  [
    "model.width=-1",
    "model.mlp_width=0",
    "train.num_steps=3000000000",
    "gradient.method=",
    "data.path=",
    "data.path=s3://bucket/text",
    "train.init_from=gs://bucket/x",
    "optimizer.learning_rate=nan",
    "profile.steps=3",
    "model.widht=3",
  ],
)
def test_a_wrong_setting_is_named(name, setting):
  """Fails if the error comes from a library, minutes later."""
  line = refuse(name, f"--config.{setting}")
  assert f"config.{setting.partition('=')[0]} " in line


@pytest.mark.parametrize("name", ["train", "certify", "plan", "memory"])
def test_a_setting_that_only_the_model_knows_is_named(name):
  """Fails if the error names an argument that the user never gave."""
  line = refuse(name, "--config.model.attention=soft")
  assert "config.model.attention must be one of" in line


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (["data.path=text.gz"], ["'text.gz'", "compressed by gzip: unpack it"]),
    (["data.path=text.zip"], ["'text.zip'", "compressed by zip: unpack it"]),
    (["data.path=none"], ["'none': No such file"]),
    (["data.path=~/none"], ["/home/none': No such file"]),
    (["data.path=."], ["'.': Is a directory"]),
    (["data.name=enwik8", "data.path=text.gz"], ["compressed by gzip"]),
    (["data.name=enwik8", "data.path=text.zip"], ["cannot read enwik8 from"]),
  ],
)
def test_a_wrong_text_names_the_setting(settings, words):
  """Fails if a model trains on the noise of compressed bytes."""
  if "data.name=enwik8" not in settings:
    settings = ["data.name=text", *settings]
  settings = [f"--config.{x}" for x in ["data.vocab_size=256", *settings]]
  line = refuse("train", *settings)
  assert line.startswith("error: config.data.path: ")
  assert all(word in line for word in words)


@pytest.mark.parametrize("path", ["none", "text", "."])
def test_wrong_weights_are_found_before_a_plan(path):
  """Fails if a wrong file is noticed after minutes of compiling."""
  line = refuse(
    "train",
    "--config.gradient.chunk_size=None",
    "--config.gradient.memory_budget=1GiB",
    f"--config.train.init_from={path}",
  )
  assert f"config.train.init_from: {path} must be a safetensors file" in line


def test_results_of_an_unknown_run_are_found_before_a_plan(folder):
  """Fails if they are noticed after minutes of compiling."""
  (folder / "run").mkdir()
  (folder / "run" / "metrics.jsonl").touch()
  line = refuse(
    "train",
    "--config.gradient.chunk_size=None",
    "--config.gradient.memory_budget=1GiB",
  )
  assert "--workdir run has metrics.jsonl but no config.json" in line


@pytest.mark.parametrize("budget", ["", "2GB", "0GiB", "-1GiB", "None"])
def test_a_wrong_budget_names_the_flag(budget):
  """Fails if bytes are counted in ambiguous units."""
  assert "--budget must be a number above 0" in refuse(
    "plan", f"--budget={budget}"
  )


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--values="], "--values must be one or more different values"),
    (["--values=,"], "--values must be one or more different values"),
    (["--values=1,,2"], "--values must be one or more different values"),
    (["--values=1,2,1"], "--values must be one or more different values"),
    (["--values=1,x"], "--config.gradient.chunk_size=x: invalid literal"),
    (["--values=1,0"], "config.gradient.chunk_size must be > 0, got 0"),
    (["--setting="], "config. is no setting"),
    (["--setting=chunk_size"], "did you mean config.gradient.chunk_size?"),
    (["--setting=model"], "config.model is a group of settings"),
    (["--config.gradient.chunk_size=3"], "is given twice"),
  ],
)
def test_a_wrong_sweep_starts_nothing(arguments, words):
  """Fails if the first values train for hours before the last fails."""
  assert words in refuse("sweep", *arguments)


def test_a_wrong_corpus_is_named():
  """Fails if a misspelt name ends in a traceback."""
  script = load_script("download_data")
  done = run_command(script.main, "ptb", "enwik9")
  assert_refused(done, "there is no 'enwik9': name some of ptb, enwik8, ")


def test_a_config_file_that_is_wrong_gets_its_line(folder):
  """Fails if a user must search the file for the mistake."""
  (folder / "x.py").write_text("def get_config():\n  return {}['a']\n")
  for name in WITH_CONFIG:
    line = refuse(name, "--config=x.py")
    assert line == "error: --config=x.py: line 2: KeyError: 'a'\n"


def test_a_run_in_a_home_is_there(folder):
  """Fails if a run is looked for in a folder named "~"."""
  line = refuse("evaluate", "--workdir=~/x")
  assert f"cannot read {folder.parent}/home/x/config.json" in line


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
    ("learning_curves", ["--config=none"], "--config=none: value should be"),
    ("learning_curves", ["--text=none"], "there is no such file or folder"),
    ("learning_curves", ["--runs="], "--runs must be one or more different"),
    ("learning_curves", ["--runs=slim:x"], "--runs: the chunk size of"),
    ("learning_curves", ["--runs=slam"], "config.gradient.method must be one"),
  ],
)
def test_a_wrong_experiment_starts_nothing(
  run_experiment, name, arguments, words
):
  """Fails if an hour of measuring ends in a traceback."""
  before = list_files(".")
  assert_refused(run_experiment(name, *arguments), words)
  assert list_files(".") == before
