"""Trains once for each value of a setting, and prints the results.

Each run is a process with a folder under --workdir; a stopped run is resumed.
Unknown arguments are passed on to `slim.train`.

  python scripts/sweep.py --config=configs/quickstart.py \
    --setting=gradient.chunk_size --values=16,32,64,128 --workdir=runs/sweep
"""

import math
import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple

from absl import flags

from slim import command_line
from slim import config as config_lib
from slim.runs.best import Best
from slim.runs.checkpoints import list_steps
from slim.runs.interruptions import ENDING, SAVING
from slim.runs.metrics import read_records
from slim.runs.train_flags import define_flags
from slim.runs.workdir import find_workdir

_COLUMNS = {
  "eval/bpc": ("eval bpc", 1.0),
  "eval/accuracy": ("accuracy", 1.0),
  "time/tokens_per_second": ("tokens/s", 1.0),
  "memory/activation_bytes": ("activations MiB", 2.0**-20),
}


def sweep(
  setting: str, values: list[str], workdir: str, arguments: list[str]
) -> None:
  """Trains with one value after the other, and prints the finished runs.

  Args:
    setting: The setting to change, as in "gradient.chunk_size".
    values: Its values, all different.
    workdir: The folder of all runs.
    arguments: Other arguments of `slim.train`.

  Raises:
    ValueError: If a setting does not fit, before anything is trained; or if a
      run fails. Later values are skipped then.
  """
  if not values or "" in values or len(set(values)) < len(values):
    raise ValueError(
      "--values must be one or more different values with commas between, got "
      f"{','.join(values)!r}"
    )
  if any(x.lstrip("-").startswith("print_config") for x in arguments):
    raise ValueError("--print_config is for slim.train alone: leave it out")
  workdir = find_workdir(workdir)
  lines = {
    value: [*arguments, f"--config.{setting}={value}"] for value in values
  }
  for line in lines.values():
    _read_settings(line)
  rows = []
  for value, line in lines.items():
    folder = pathlib.Path(workdir) / f"{setting}={value}"
    command = [sys.executable, "-m", "slim.train", *line]
    done = _run([*command, f"--workdir={folder}"])
    if done.code or done.ended_by:
      _print_table(setting, rows)
    if done.code:
      raise ValueError(
        f"--values: {setting}={value} did not train, see above: correct it, "
        "and the same command continues from there"
      )
    ended_by = done.ended_by or _ended_early(line, folder)
    if ended_by:
      if not done.ended_by:
        _print_table(setting, rows)
      print(f"{ended_by}: the same command continues with {value}")
      return
    rows.append((value, _last_values(folder / "metrics.jsonl")))
  _print_table(setting, rows)


class _Exit(NamedTuple):
  """The end of a process."""

  code: int
  ended_by: str | None  # The signal that has ended it, if one has.


def _run(command):
  """Runs a command, and passes signals on to it."""
  processes, signals = [], []

  def pass_on(number, _):
    signals.append(number)
    for process in processes:
      process.send_signal(number)

  before = {
    number: signal.signal(number, pass_on)
    for number in (*ENDING, SAVING)
    if signal.getsignal(number) is not signal.SIG_IGN
  }
  try:
    # In a session of its own, or a Ctrl-C would reach it twice.
    processes.append(subprocess.Popen(command, start_new_session=True))
    for number in list(signals):  # Those that came before it was there.
      processes[0].send_signal(number)
    code = processes[0].wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  ending = [signal.Signals(x).name for x in signals if x != SAVING]
  return _Exit(code, ending[0] if ending else None)


def _ended_early(line, folder):
  """Returns why a run has not done all its steps, or None."""
  config = _read_settings(line)
  steps = list_steps(str(folder))
  if steps and steps[-1] >= config.train.num_steps:
    return None
  metrics = folder / "metrics.jsonl"
  if not metrics.exists():
    return "ended before its first step"
  records = read_records(str(metrics))
  best = Best(config.train.keep_best or "eval/loss", records)
  # Ending by `patience` is as good as finishing.
  if best.since >= (config.train.patience or math.inf):
    return None
  return "ended before its last step"


def _read_settings(arguments):
  """Reads the settings as `slim.train` does; raises if it would refuse them."""
  flag_values = flags.FlagValues()
  config = define_flags(flag_values).config
  command_line.parse_flags(["train", *arguments], flag_values)
  config_lib.validate(config.value)
  return config.value


def _print_table(setting, rows):
  """Prints the last metrics of each value."""
  width = max(len(setting), 16)
  print(setting.rjust(width), *(f"{x:>16}" for x, _ in _COLUMNS.values()))
  for value, found in rows:
    cells = (
      f"{found[key] * unit:16,.4f}" if key in found else " " * 16
      for key, (_, unit) in _COLUMNS.items()
    )
    print(value.rjust(width), *cells)


def _last_values(path):
  """Returns the last value of each metric in metrics.jsonl."""
  found = {}
  for record in read_records(str(path)):
    found.update(record)
  return found


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  setting = flags.DEFINE_string(
    "setting", "gradient.chunk_size", "Setting to change, without 'config.'."
  )
  values = flags.DEFINE_list(
    "values", None, "The values, separated by commas.", required=True
  )
  workdir = flags.DEFINE_string(
    "workdir", None, "Folder of the runs.", required=True
  )
  command_line.run_script(
    lambda rest: sweep(setting.value, values.value, workdir.value, rest), argv
  )


if __name__ == "__main__":
  main()
