"""Trains once for each value of a setting, and prints what it changed.

Each run is a process of its own under --workdir; one that was stopped goes on.
Arguments that this script does not know go to `slim.train` as they are.

  python scripts/sweep.py --config=configs/quickstart.py \
    --setting=gradient.chunk_size --values=16,32,64,128 --workdir=runs/sweep
"""

import pathlib
import subprocess
import sys

from absl import flags

from slim import command_line
from slim.metrics import read_records

_SETTING = flags.DEFINE_string(
  "setting", "gradient.chunk_size", "What to change, without 'config.'."
)
_VALUES = flags.DEFINE_list("values", None, "The values, with commas between.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the runs.")
_COLUMNS = {
  "eval/bpc": ("eval bpc", 1.0),
  "eval/accuracy": ("accuracy", 1.0),
  "time/tokens_per_second": ("tokens/s", 1.0),
  "memory/activation_bytes": ("activations MiB", 2.0**-20),
}


def sweep(arguments: list[str]) -> None:
  """Trains with one value after the other, and prints what is finished.

  Args:
    arguments: Those of `slim.train`.

  Raises:
    ValueError: If a value did not train; those after it are left out.
  """
  rows = []
  for value in _VALUES.value:
    folder = pathlib.Path(_WORKDIR.value) / f"{_SETTING.value}={value}"
    command = [
      *(sys.executable, "-m", "slim.train", *arguments),
      *(f"--config.{_SETTING.value}={value}", f"--workdir={folder}"),
    ]
    if subprocess.run(command, check=False).returncode:
      _print_table(rows)
      raise ValueError(
        f"--values: {_SETTING.value}={value} did not train, see above: correct "
        "it, and the same command goes on from there"
      )
    rows.append((value, _last_values(folder / "metrics.jsonl")))
  _print_table(rows)


def _print_table(rows):
  """Prints the last metrics of each value."""
  width = max(len(_SETTING.value), 16)
  print(
    _SETTING.value.rjust(width), *(f"{x:>16}" for x, _ in _COLUMNS.values())
  )
  for value, found in rows:
    cells = (
      f"{found[key] * unit:16,.4f}" for key, (_, unit) in _COLUMNS.items()
    )
    print(value.rjust(width), *cells)


def _last_values(path):
  """The last value of each metric in metrics.jsonl."""
  found = {}
  for record in read_records(str(path)):
    found.update(record)
  return found


if __name__ == "__main__":
  flags.mark_flags_as_required(["values", "workdir"])
  command_line.run_script(sweep)
