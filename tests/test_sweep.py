"""A sweep is a table of runs, and loses none of them."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# The programs are few, and nothing here asks about rounding.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def sweep(*arguments):
  """Runs the script on the smallest runs, as a user does."""
  return subprocess.run(
    [
      sys.executable,
      "scripts/sweep.py",
      "--config=configs/quickstart.py:smoke",
      "--config.gradient.method=full",  # The fastest to compile.
      "--config.model.width=16",
      "--config.data.sequence_length=16",
      *arguments,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def read_table(output):
  """Returns the head of a table, and its numbers by the value."""
  head, *rows = output.splitlines()
  cells = [row.replace(",", "").split() for row in rows]
  return head.split(), {x: [float(y) for y in rest] for x, *rest in cells}


@pytest.mark.slow
@pytest.mark.slow
def test_a_value_that_fails_costs_no_other(tmp_path):
  """Without it a mistake in the last value would cost the whole table."""
  arguments = ["--setting=seed", f"--workdir={tmp_path}"]
  result = sweep("--values=1,2", *arguments)
  assert result.returncode == 0, result.stderr
  head, rows = read_table(result.stdout)
  assert head[:4] == ["seed", "eval", "bpc", "accuracy"]
  assert list(rows) == ["1", "2"]
  assert rows["1"][0] != rows["2"][0]
  assert all(len(numbers) == 4 for numbers in rows.values())
  result = sweep("--values=2,-1,1", *arguments)
  assert result.returncode == 1
  assert read_table(result.stdout) == (head, {"2": rows["2"]})
  *_, reason, last = result.stderr.splitlines()
  assert reason == "error: config.seed must be >= 0, got -1"
  assert last.startswith("error: --values: seed=-1 did not train, see above")
  assert {path.name for path in tmp_path.iterdir()} == {"seed=1", "seed=2"}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--values=4"], "--workdir must have a value"),
    (["--workdir=x"], "--values must have a value"),
    (
      ["--values=4", "--workdir=x", "--config.gradient.chunksize=4"],
      "did you mean config.gradient.chunk_size?",
    ),
  ],
)
def test_mistakes_end_in_one_line(arguments, message):
  """Without it a forgotten flag would be answered by a traceback."""
  result = sweep(*arguments)
  assert result.returncode == 1
  assert result.stderr.startswith("error: ") and message in result.stderr
  assert result.stderr.count("\n") == 1
  assert not result.stdout
