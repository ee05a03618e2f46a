"""Tables on the screen, and result files with command, machine and date."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from typing import Any

import jax

from slim.runs.workdir import git_commit

RESULTS = pathlib.Path(__file__).parent / "results"


def save(
  name: str, rows: list[dict[str, Any]], *, quick: bool = False, **notes: Any
) -> pathlib.Path:
  """Writes rows of results to `experiments/results/<name>.json`.

  Args:
    name: Name of the file, without its ending.
    rows: One flat dict for each measurement, with units in the names.
    quick: Whether this is a small run; its file is `<name>_quick.json`.
    **notes: Anything that holds for all rows.

  Returns:
    The file. Figures of the same rows are written beside it.
  """
  record = {
    "command": " ".join(["python", *_relative(sys.argv)]),
    "commit": git_commit(),
    "date": datetime.date.today().isoformat(),
    "hardware": hardware(),
    "versions": {
      "python": platform.python_version(),
      **{
        package: importlib.metadata.version(package)
        for package in ("jax", "jaxlib", "flax", "optax", "numpy")
      },
    },
    **notes,
    "rows": rows,
  }
  RESULTS.mkdir(exist_ok=True)
  path = RESULTS / f"{name}{'_quick' if quick else ''}.json"
  path.write_text(json.dumps(record, indent=1) + "\n")
  print(f"wrote {path.relative_to(RESULTS.parents[1])}")
  return path


def hardware() -> str:
  """Describes the devices, or the processor and the cores of this process."""
  device = jax.devices()[0]
  if device.platform != "cpu":
    return f"{jax.device_count()} x {device.device_kind}"
  model = platform.processor() or platform.machine()
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  if cpuinfo.exists():
    for line in cpuinfo.read_text().splitlines():
      if line.startswith("model name"):
        model = line.partition(":")[2].strip()
        break
  return f"{len(os.sched_getaffinity(0))} cores of {model}"


def print_table(rows: list[dict[str, Any]]) -> None:
  """Prints rows with the same keys as a table."""
  cells = [list(rows[0])]
  for row in rows:
    cells.append(
      [f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()]
    )
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  for line in cells:
    pairs = zip(line, widths, strict=True)
    print("  ".join(x.rjust(width) for x, width in pairs))


def _relative(argv):
  """Returns the command without the folders of this machine."""
  script = pathlib.Path(argv[0]).resolve()
  if script.is_relative_to(RESULTS.parents[1]):
    script = script.relative_to(RESULTS.parents[1])
  arguments = []
  for argument in argv[1:]:
    name, equals, value = argument.partition("=")
    if pathlib.Path(value).is_absolute():
      value = pathlib.Path(value).name
    arguments.append(f"{name}{equals}{value}")
  return [str(script), *arguments]
