"""Trains once for each value of a setting, and prints the results.

Each run is a process with a folder under --workdir; a stopped run is resumed.
Unknown arguments are passed on to `slim.train`.

  python scripts/sweep.py --config=configs/quickstart.py \
    --setting=gradient.chunk_size --values=16,32,64,128 --workdir=runs/sweep
"""

import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple

from absl import flags

from slim import command_line
from slim import config as config_lib
from slim.config import setting_flags
from slim.runs.metrics import read_records
from slim.runs.workdir import find_workdir

_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
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
  workdir = find_workdir(workdir)
  lines = {
    value: [*arguments, f"--config.{setting}={value}"] for value in values
  }
  for line in lines.values():
    _check(line)
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
    if done.ended_by:
      print(f"{done.ended_by}: the same command continues with {value}")
      return
    rows.append((value, _last_values(folder / "metrics.jsonl")))
  _print_table(setting, rows)


class _Done(NamedTuple):
  """The end of a process."""

  code: int
  ended_by: str | None  # The signal that has ended it, if one has.


def _run(command):
  """Runs a command, and passes signals on to it."""
  # In a session of its own, or a Ctrl-C would reach it twice.
  process = subprocess.Popen(command, start_new_session=True)
  ended_by = []

  def pass_on(number, _):
    if number != signal.SIGUSR1:  # It asks for a checkpoint only.
      ended_by.append(signal.Signals(number).name)
    process.send_signal(number)

  before = {x: signal.signal(x, pass_on) for x in _SIGNALS}
  try:
    code = process.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return _Done(code, ended_by[0] if ended_by else None)


def _check(arguments):
  """Raises if `slim.train` would refuse the settings."""
  flag_values = flags.FlagValues()
  config = setting_flags.define_config(flag_values)
  command_line.parse_flags(["train", *arguments], flag_values)
  config_lib.validate(config.value)


def _print_table(setting, rows):
  """Prints the last metrics of each value."""
  width = max(len(setting), 16)
  print(setting.rjust(width), *(f"{x:>16}" for x, _ in _COLUMNS.values()))
  for value, found in rows:
    cells = (
      f"{found[key] * unit:16,.4f}" for key, (_, unit) in _COLUMNS.items()
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
