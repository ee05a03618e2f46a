"""Config files: their results, and the line of a mistake."""

import pytest

from slim.config.config_file import load_config

HEAD = "from slim.config import base\n\ndef get_config():\n"


@pytest.fixture
def load(tmp_path):
  """Loads a config file with the given text."""

  def load_text(text, argument=""):
    (tmp_path / "x.py").write_bytes(text.encode("latin-1"))
    return load_config(f"{tmp_path}/x.py{argument}")

  return load_text


def test_a_file_is_run_and_leaves_nothing(load, tmp_path):
  """Fails if a config in a read-only folder cannot be loaded."""
  body = "  config = base()\n  config.data.path = __file__\n  return config\n"
  config = load(HEAD + body)
  assert config.data.path == f"{tmp_path}/x.py"
  assert config.is_locked
  assert [path.name for path in tmp_path.iterdir()] == ["x.py"]


def test_a_home_is_found(load, tmp_path, monkeypatch):
  """Fails if `--config=~/x.py` means a folder named "~"."""
  monkeypatch.setenv("HOME", str(tmp_path))
  load(HEAD + "  return base()\n")
  assert load_config("~/x.py").seed == 0


def test_a_file_can_define_dataclasses(load):
  """Fails if dataclasses cannot find the module of the file."""
  text = "from __future__ import annotations\nimport dataclasses\n"
  text += "@dataclasses.dataclass\nclass A:\n  x: int = 3\n"
  assert load(text + HEAD + "  return base()\n").seed == 0


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "the file must have a function get_config, which returns the"),
    ("get_config = 3\n", "the file must have a function get_config, which"),
    ("\ndef get_config(:\n", "line 2: SyntaxError: "),
    ("\n\xff", "line 2: SyntaxError: "),
    ("\0", "SyntaxError: "),
    ("\nimport none_such\n", "line 2: ModuleNotFoundError: No module named 'n"),
    ("\nimport sys\nsys.exit(0)\n", "line 3: SystemExit: 0"),
    ("\nfrom jax import none\n", "line 2: ImportError: cannot import name 'no"),
    (HEAD + "  base()\n", "line 3: get_config must return a ConfigDict, which"),
    (HEAD + "  return {}\n", "line 3: get_config must return a ConfigDict, wh"),
    (HEAD + "  1 + 'a'\n", "line 4: TypeError: unsupported operand type"),
    (HEAD + "  (3).x\n", "line 4: AttributeError: 'int' object has no"),
    (HEAD + "  int('x')\n", "line 4: invalid literal for int()"),
    (HEAD + "  {}['x']\n", "line 4: KeyError: 'x'"),
    (HEAD + "  raise ValueError\n", "line 4: ValueError"),
    (HEAD + "  raise SystemExit\n", "line 4: SystemExit"),
    (HEAD + "  open('none_such')\n", "line 4: FileNotFoundError: "),
    (HEAD + "  get_config()\n", "line 4: RecursionError: "),
    (
      HEAD + "  return base().modle\n",
      "line 4: config.modle is no setting: did you mean config.model?",
    ),
    (
      HEAD + "  c = base()\n  c.seed = c.model.widht\n",
      "line 5: config.widht is no setting: did you mean config.model.width?",
    ),
    (
      HEAD + "  c = base()\n  c.model.width = 'a'\n",
      "line 5: TypeError: Could not override field 'width'",
    ),
    (
      HEAD + "  c = base()\n  c.model.widht = 3\n  return c\n",
      "config.model.widht is no setting: did you mean config.model.width?",
    ),
    (
      HEAD + "  c = base()\n  del c.seed\n  return c\n",
      "config.seed is missing: start from slim.config.base",
    ),
  ],
)
def test_a_mistake_is_one_line_with_its_number(load, text, message):
  """Fails if a mistake ends in a traceback, or names no line."""
  with pytest.raises(ValueError) as error:
    load(text)
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("parameters", "argument", "message"),
  [
    ("", ":smoke", "line 1: get_config() does not take 1 arguments: leave out"),
    ("", ":", "line 1: get_config() does not take 1 arguments: leave out ':'"),
    ("arg", "", "line 1: get_config(arg) does not take 0 arguments: give it"),
  ],
)
def test_the_argument_must_fit(load, parameters, argument, message):
  """Fails if a wrong argument ends in a TypeError that names no flag."""
  with pytest.raises(ValueError) as error:
    load(f"def get_config({parameters}):\n  pass\n", argument)
  assert str(error.value).startswith(message)
