"""Settings: a mistake ends in one line, and writes nothing."""

import pytest

from tests.commands import assert_refused, run_command
from tests.mistakes.cases import COMMANDS, CONFIG, load_script, refuse

WITH_CONFIG = [name for name, line in COMMANDS.items() if CONFIG in line]


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


@pytest.mark.parametrize(
  ("path", "words"),
  [
    ("none", "config.train.init_from: none must be a safetensors file"),
    ("text", "config.train.init_from: text must be a safetensors file"),
    (".", "config.train.init_from must be the folder of a run"),
  ],
)
def test_wrong_weights_are_found_before_a_plan(path, words):
  """Fails if a wrong file is noticed after minutes of compiling."""
  line = refuse(
    "train",
    "--config.gradient.chunk_size=None",
    "--config.gradient.memory_budget=1GiB",
    f"--config.train.init_from={path}",
  )
  assert words in line


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
