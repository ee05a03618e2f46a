"""Mistakes on the command line end in one line."""

import pytest
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from slim import command_line

FILE = """
from slim.config import base, is_smoke

def get_config(arg=""):
  config = base()
  config.seed = 7 if is_smoke(arg) else 3
  config.gradient.chunk_size = 64
  return config
"""


@pytest.fixture
def parse(tmp_path, monkeypatch):
  """Parses a command line in the folder of the config file `x.py`."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "x.py").write_text(FILE)

  def parse_line(line):
    argv = ["program", *line.split()]
    flag_values = flags.FlagValues()
    config_flags.DEFINE_config_file(
      "config", None, flag_values=flag_values, sys_argv=argv
    )
    flags.mark_flags_as_required(["config"], flag_values)
    command_line.parse_flags(argv, flag_values)
    return flag_values.config

  return parse_line


# The loader of ml_collections is deprecated by Python, not by us.
loads_config = pytest.mark.filterwarnings(
  "ignore:the load_module\\(\\) method is deprecated:DeprecationWarning"
)


@loads_config
def test_overrides_are_applied(parse):
  """Without it the command line would be ignored."""
  config = parse(
    "--config=x.py:smoke --config.model.width=64 --config.data.path=a "
    "--config.optimizer.clip_norm 2 --noconfig.model.output_projection "
    "--config.profile.steps=10,20 --config.train.tensorboard=True "
    "--config.train.init_from=a.safetensors --config.gradient.chunk_size=None"
  )
  assert config.seed == 7
  assert config.model.mlp_width == 256
  assert config.data.path == "a"
  assert config.optimizer.clip_norm == 2.0
  assert config.profile.steps == (10, 20)
  assert config.train.tensorboard is True
  assert config.train.init_from == "a.safetensors"
  assert config.gradient.chunk_size is None


@loads_config
@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("", "Flag --config must have a value"),
    ("--config=y.py", "--config: the file cannot be read: [Errno 2] No such"),
    ("--config=.", "--config: the file cannot be read: "),
    ("--config=x.py:smok", "the config file takes the argument 'smoke' or"),
    ("--config=x.py more", "unexpected 'more': all arguments are --flags"),
    ("--config=x.py --confg.seed=3", "Unknown command line flag 'confg.seed'"),
    (
      "--config=x.py --config.gradient.chunksize=3",
      "config.gradient.chunksize is no setting: did you mean config.gradient."
      "chunk_size?",
    ),
    (
      "--config=x.py --config.gradient.chunk_size=abc",
      "--config.gradient.chunk_size=abc: invalid literal for int()",
    ),
    (
      "--config=x.py --config.gradient.chunk_size=1.5",
      "--config.gradient.chunk_size=1.5: invalid literal for int()",
    ),
    (
      "--config=x.py --config.gradient={'chunk_size':3}",
      "config.gradient is a group of settings",
    ),
  ],
)
def test_mistakes_end_in_one_line(parse, line, message):
  """Without it a typing error would be answered by a traceback."""
  with pytest.raises(SystemExit) as error:
    parse(line)
  assert str(error.value).startswith("error: ")
  assert message in str(error.value)
  assert "\n" not in str(error.value)


@loads_config
@pytest.mark.parametrize(
  ("line", "message"),
  [
    (
      "config.modle.width = 3",
      "config.modle is no setting: did you mean config.model?",
    ),
    (
      "config.seed = config.model.widht",
      "config.widht is no setting: did you mean config.model.width?",
    ),
    ("config.model.width = 'a'", "Could not override field 'width'"),
  ],
)
def test_mistakes_in_the_config_file_end_in_one_line(
  parse, tmp_path, line, message
):
  """Without it a typing error would be answered by quotes within quotes."""
  text = FILE.replace("  return config", f"  {line}\n  return config")
  (tmp_path / "x.py").write_text(text)
  with pytest.raises(SystemExit) as error:
    parse("--config=x.py")
  assert str(error.value).startswith(f"error: {message}")
  assert "\n" not in str(error.value)


def test_a_script_gets_the_arguments_that_are_no_flags_of_its_own():
  """Without it a sweep could not hand them on, or would hide a mistake."""
  flag_values = flags.FlagValues()
  flags.DEFINE_list("values", None, "", flag_values)
  flags.mark_flags_as_required(["values"], flag_values)
  rest = ["name", "--config=x.py", "--config.data.path=None"]
  argv = ["program", "--values=1,2", *rest]
  assert command_line.parse_flags(argv, flag_values, known_only=True) == (
    ["program", *rest]
  )
  assert flag_values["values"].value == ["1", "2"]
  flag_values["values"].unparse()
  with pytest.raises(SystemExit, match="^error: .*--values must have a value"):
    command_line.parse_flags(["program"], flag_values, known_only=True)


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError])
def test_errors_of_the_program_end_in_one_line(kind, monkeypatch):
  """Without it a missing file would be answered by a traceback."""
  monkeypatch.setattr(command_line, "_log_to_stderr", lambda: None)

  def main():
    raise kind("what is wrong\nand much else")

  with pytest.raises(SystemExit, match="^error: what is wrong$"):
    command_line.run_main(main)


def test_bugs_keep_their_traceback(monkeypatch):
  """Without it nobody could find a bug."""
  monkeypatch.setattr(command_line, "_log_to_stderr", lambda: None)
  with pytest.raises(ZeroDivisionError):
    command_line.run_main(lambda: 1 / 0)


def test_the_traceback_can_be_asked_for(monkeypatch):
  """Without it an error from inside a library could not be understood."""
  logged = []
  monkeypatch.setattr(command_line, "_log_to_stderr", lambda: None)
  monkeypatch.setattr(
    absl_logging, "debug", lambda *args, exc_info: logged.append(exc_info)
  )

  def main():
    raise ValueError("what is wrong")

  with pytest.raises(SystemExit):
    command_line.run_main(main)
  assert logged == [True]
