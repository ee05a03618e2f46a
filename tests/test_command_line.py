"""Mistakes on the command line end in one line."""

import io
import sys

import pytest
from absl import flags

from slim import command_line
from slim.config import setting_flags

FILE = """
from slim.config import base, presets

def get_config(variant=""):
  config = base()
  config.seed = 3
  config.gradient.chunk_size = 64
  return presets.variant(config, variant)
"""


def parse_line(line):
  """Parses a command line with settings, and returns the settings."""
  flag_values = flags.FlagValues()
  config = setting_flags.define_config(flag_values)
  command_line.parse_flags(["program", *line.split()], flag_values)
  return config.value


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """The current folder, with a config file `x.py`."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "x.py").write_text(FILE)
  return tmp_path


def test_overrides_are_applied():
  """Fails if the command line is ignored."""
  config = parse_line(
    "--config.model.width=64 --config=x.py:smoke --config.data.path=a "
    "--config.optimizer.clip_norm 2 --noconfig.model.output_projection "
    "--config.profile.steps=10,20 --config.train.tensorboard=True "
    "--config.train.init_from=a.safetensors --config.gradient.chunk_size=None "
    "--config.model.final_norm"
  )
  assert config.seed == 3
  assert config.train.num_steps == 4
  assert config.model.mlp_width == 256
  assert config.data.path == "a"
  assert config.optimizer.clip_norm == 2.0
  assert config.model.output_projection is False
  assert config.model.final_norm is True
  assert config.profile.steps == (10, 20)
  assert config.train.tensorboard is True
  assert config.train.init_from == "a.safetensors"
  assert config.gradient.chunk_size is None
  assert config.is_locked


MISTAKES = [
  ("", "--config is missing: File in configs/."),
  ("--config.model.width=3", "--config is missing: File in configs/."),
  ("--config", "Missing value for flag --config"),
  ("--config=x.py --config=x.py", "--config=x.py is given twice: leave one"),
  ("--config=y.py", "--config=y.py: the file cannot be read: No such file"),
  ("--config=.", "--config=.: the file cannot be read: Is a directory"),
  ("--config=", "--config=: the file must be a path, got ''"),
  ("--config=gs://a/x.py", "the file must be a path on this machine, got 'gs"),
  ("--config=x.py:smok", "line 8: the config file takes the argument 'smoke"),
  ("--config=x.py more", "unexpected 'more': all arguments are --flags"),
  ("--config=x.py --confg.seed=3", "Unknown command line flag 'confg.seed'"),
  (
    "--config=x.py --config.gradient.chunksize=3",
    "config.gradient.chunksize is no setting: did you mean config.gradient."
    "chunk_size?",
  ),
  ("--config=x.py --config.=3", "config. is no setting: there are"),
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
  (
    "--config=x.py --config.profile.steps=(1,",
    "--config.profile.steps=(1,: must be numbers with commas between",
  ),
  (
    "--config=x.py --config.train.tensorboard=3",
    "--config.train.tensorboard=3: ",
  ),
  ("--config=x.py --noconfig.seed", "--noconfig.seed: only flags that are"),
  (
    "--config=x.py --noconfig.train.tensorbord",
    "config.train.tensorbord is no setting: did you mean config.train.tensor",
  ),
  (
    "--config=x.py --config.seed=1 --config.seed=2",
    "--config.seed=2 is given twice: leave one out",
  ),
]


def assert_exits(line, message):
  """Asserts that a command line ends in one line with this beginning."""
  with pytest.raises(SystemExit) as error:
    parse_line(line)
  assert str(error.value).startswith("error: ")
  assert message in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_mistakes_end_in_one_line(line, message):
  """Fails if a typing error ends in a traceback."""
  assert_exits(line, message)


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_flag_file_is_as_the_command_line(folder, line, message):
  """Fails if the same flags in a file get another answer."""
  (folder / "flags").write_text("# A comment.\n" + "\n".join(line.split()))
  assert_exits("--flagfile=flags", message)


def test_settings_of_a_flag_file_are_applied(folder):
  """Fails if None works on the command line only."""
  (folder / "flags").write_text(
    "--config=x.py\n--config.gradient.chunk_size=None\n"
  )
  config = parse_line("--flagfile=flags --config.model.width=64")
  assert config.gradient.chunk_size is None
  assert config.model.width == 64


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("--flagfile=none", "--flagfile: No such file or directory: 'none'"),
    ("--flagfile=.", "--flagfile: Is a directory: '.'"),
    ("--flagfile=", "--flagfile: must be a path, got ''"),
    ("--flagfile", "--flagfile: --flagfile with no argument"),
    ("--flagfile=binary", "--flagfile: 'utf-8' codec can't decode"),
  ],
)
def test_a_flag_file_that_cannot_be_read_is_one_line(folder, line, message):
  """Fails if a missing file ends in a traceback."""
  (folder / "binary").write_bytes(b"\xff\xfe")
  assert_exits(line, message)


def test_a_script_gets_the_arguments_that_are_no_flags_of_its_own():
  """Fails if a sweep cannot pass them on, or hides a mistake."""
  flag_values = flags.FlagValues()
  about = "The values."
  flags.DEFINE_list("values", None, about, flag_values, required=True)
  rest = ["name", "--config=x.py", "--config.data.path=None"]
  argv = ["program", "--values=1,2", *rest]
  assert command_line.parse_flags(argv, flag_values, known_only=True) == (
    ["program", *rest]
  )
  assert flag_values["values"].value == ["1", "2"]
  flag_values["values"].unparse()
  with pytest.raises(SystemExit, match="^error: --values is missing: The val"):
    command_line.parse_flags(["program"], flag_values, known_only=True)


def test_a_terminal_may_lack_a_character(monkeypatch):
  """Fails if a finished result is lost because of the name of a file."""
  output = io.BytesIO()
  for name in ("_end_at_once_by_ctrl_c", "_log_to_stderr"):
    monkeypatch.setattr(command_line, name, lambda: None)  # For all tests.
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, "latin-1"))
  command_line.run_main(lambda: print("é Ж \udce9", flush=True))
  assert output.getvalue() == b"\xe9 \\u0416 \\udce9\n"
