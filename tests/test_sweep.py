"""A sweep prints a table of all runs that finished."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.commands import assert_refused, run_command
from tests.mistakes.cases import ROOT, load_script

SETTINGS = [
  f"--config={ROOT}/configs/quickstart.py:smoke",
  "--config.gradient.method=full",  # The fastest to compile.
  "--config.model.width=16",
  "--config.data.sequence_length=16",
]


pytestmark = pytest.mark.usefixtures("as_in_a_terminal")


def read_table(output):
  """Returns the header of a table, and its numbers by value."""
  head, *rows = output.splitlines()
  cells = [row.replace(",", "").split() for row in rows]
  return head.split(), {x: [float(y) for y in rest] for x, *rest in cells}


@pytest.mark.parametrize(
  ("failing", "ended"), [(None, None), ("2", None), (None, "2")]
)
def test_a_value_that_fails_costs_no_other(
  tmp_path, monkeypatch, failing, ended
):
  """Fails if a run that fails costs the whole table."""
  module = load_script("sweep")
  commands = []

  def train(command):
    commands.append(command)
    folder = pathlib.Path(command[-1].removeprefix("--workdir="))
    seed = command[-2].removeprefix("--config.seed=")
    assert folder == tmp_path / f"seed={seed}"
    if seed == failing:
      return module._Exit(1, None)
    if seed == ended:
      return module._Exit(0, "SIGTERM")
    folder.mkdir()
    record = {
      "step": 1,
      "eval/bpc": float(seed),
      "eval/accuracy": 0.5,
      "time/tokens_per_second": 7.0,
      "memory/activation_bytes": 2.0**21,
    }
    lines = json.dumps({"step": 0, "eval/bpc": 9.0}), json.dumps(record)
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "checkpoints" / "4").mkdir(parents=True)  # The last step.
    return module._Exit(0, None)

  monkeypatch.setattr(module, "_run", train)
  flags = ["--setting=seed", "--values=1,2,3", f"--workdir={tmp_path}"]
  done = run_command(module.main, *SETTINGS, *flags)
  output, note = done.output, ""
  if ended:
    output, note = output[: output.index("SIG")], output[output.index("SIG") :]
  head, rows = read_table(output)
  assert head[:4] == ["seed", "eval", "bpc", "accuracy"]
  assert rows["1"] == [1.0, 0.5, 7.0, 2.0]
  for command in commands:
    assert command[:3] == [sys.executable, "-m", "slim.train"]
    assert command[3:-2] == SETTINGS
  if ended:
    assert (done.code, done.errors, list(rows)) == (0, "", ["1"])
    assert note == "SIGTERM: the same command continues with 2\n"
  elif failing is None:
    assert (done.code, done.errors, list(rows)) == (0, "", ["1", "2", "3"])
  else:
    assert (done.code, list(rows)) == (1, ["1"])
    assert len(commands) == 2
    assert done.errors.startswith(
      "error: --values: seed=2 did not train, see above"
    )
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signals_are_passed_on_once(name):
  """Fails if a sweep leaves its run behind, or a Ctrl-C reaches it twice."""
  module = load_script("sweep")
  number = getattr(signal, name)
  program = f"""
import os, signal, time
count = []
signal.signal({number:d}, lambda *_: count.append(1))
os.kill(os.getppid(), {number:d})
deadline = time.monotonic() + 30
while not count and time.monotonic() < deadline:
  time.sleep(0.01)
time.sleep(0.1)
raise SystemExit(10 + len(count))
"""
  done = module._run([sys.executable, "-c", program])
  assert done == (11, None if name == "SIGUSR1" else name)
  assert signal.getsignal(number) in (
    signal.SIG_DFL,
    signal.default_int_handler,
  )


@pytest.mark.slow
def test_the_script_trains(tmp_path):
  """Fails if a sweep runs something other than `slim.train`."""
  result = subprocess.run(
    [
      *(sys.executable, "scripts/sweep.py", *SETTINGS),
      *("--setting=seed", "--values=1,2", f"--workdir={tmp_path}"),
    ],
    cwd=ROOT,
    env=os.environ
    | {
      "PYTHONPATH": str(ROOT),  # It is not in a package.
      "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    },
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  _, rows = read_table(result.stdout)
  assert list(rows) == ["1", "2"]
  assert rows["1"][0] != rows["2"][0]
  assert all(len(numbers) == 4 for numbers in rows.values())


def test_a_run_that_ended_by_patience_is_finished(tmp_path):
  """Fails if a sweep never gets past a value that learns no more."""
  early = load_script("sweep")._ended_early
  line = [*SETTINGS, "--config.train.patience=2"]
  line += ["--config.train.max_minutes=9", "--compilation_cache=none"]
  for losses, reason in (
    ([1.0, 2.0], "ended before its last step"),
    ([1.0, 2.0, 3.0], None),
  ):
    records = [{"step": i, "eval/loss": x} for i, x in enumerate(losses)]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert early(line, tmp_path) == reason


def test_runs_that_write_nothing_are_named(tmp_path, monkeypatch):
  """Fails if a missing file of metrics ends in the number of an error."""
  module = load_script("sweep")
  monkeypatch.setattr(module, "_run", lambda command: module._Exit(0, None))
  line = [*SETTINGS, f"--workdir={tmp_path}", "--values=16"]
  done = run_command(module.main, *line)
  assert "ended before its first step: the same command" in done.output
  assert_refused(
    run_command(module.main, *line, "-print_config"),
    "--print_config is for slim.train alone",
  )
