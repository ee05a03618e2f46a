"""Paths and flags: a mistake ends in one line, and writes nothing."""

import pytest

from tests.commands import assert_refused, run_command
from tests.mistakes.cases import COMMANDS, refuse


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


def test_a_run_in_a_home_is_there(folder):
  """Fails if a run is looked for in a folder named "~"."""
  line = refuse("evaluate", "--workdir=~/x")
  assert f"cannot read {folder.parent}/home/x/config.json" in line
