"""Tables on the screen, and result files with command, machine and date."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax

from slim.runs.provenance import git_commit

RESULTS = pathlib.Path(__file__).parent / "results"
COMMIT = git_commit()  # Of the code that runs; another may be there at the end.


def save(
  name: str, rows: list[dict[str, Any]], *, quick: bool = False, **notes: Any
) -> None:
  """Writes rows of results to `experiments/results/<name>.json`.

  Args:
    name: Name of the file, without its ending.
    rows: One flat dict for each measurement, with units in the names.
    quick: Whether this is a small run; its file is `<name>_quick.json`.
    **notes: Anything that holds for all rows.
  """
  path = results_path(name, "json", quick)
  record = origin()
  record["date"] = datetime.date.today().isoformat()
  _write(path, record | notes | {"rows": rows})
  results_path(name, "partial", quick).unlink(missing_ok=True)
  print(f"wrote {path.relative_to(RESULTS.parents[1])}")


def read(names: Iterable[str], quick: bool = False) -> dict[str, dict]:
  """Reads the results that `save` wrote.

  Args:
    names: Names of files, without their ending.
    quick: Whether to read the results of small runs.

  Returns:
    What is in each file, by name. Files that do not exist are left out.

  Raises:
    ValueError: If none of the files exists.
  """
  names = list(names)
  found = {
    name: json.loads(path.read_text())
    for name in names
    if (path := results_path(name, "json", quick)).exists()
  }
  if not found:
    raise ValueError(
      f"there are no results of {', '.join(names)}: measure them"
    )
  return found


def results_path(name: str, ending: str, quick: bool = False) -> pathlib.Path:
  """Returns the path of a file of results, such as a figure."""
  return RESULTS / f"{name}{'_quick' if quick else ''}.{ending}"


def measure_in_stretches(
  name: str,
  cases: Iterable[Any],
  measure: Callable[[Any], list[dict[str, Any]]],
  *,
  quick: bool = False,
  apply: Callable[..., Iterable[Any]] = map,
) -> list[dict[str, Any]]:
  """Measures cases; a run that was interrupted continues where it stopped.

  The rows of each case are stored in `<name>.partial` as soon as they are
  measured, and `save` removes this file. It is continued only by the same
  command, commit, versions and hardware. A small run always starts anew, and
  so does one after a run from a changed working tree.

  Args:
    name: Name of the file of results, without its ending.
    cases: What to measure, in order.
    measure: Returns the rows of a case.
    quick: Whether this is a small run.
    apply: `map`, or that of an executor.

  Returns:
    The rows of all cases. They are not saved yet.

  Raises:
    ValueError: If the file is of a run that this one cannot continue.
  """
  path = results_path(name, "partial", quick)
  start = origin()
  found = [] if quick else _read_stretch(path, start)
  cases = list(cases)
  if found:
    print(f"{len(found)} of {len(cases)} cases are from {path.name}")
  for rows in apply(measure, cases[len(found) :]):
    found.append(rows)
    _write(path, start | {"rows_of_cases": found})
    print(f"{len(found)} of {len(cases)}: {cases[len(found) - 1]}", flush=True)
  return [row for rows in found for row in rows]


def origin() -> dict[str, Any]:
  """Returns command, commit, hardware and versions of this process."""
  return {
    "command": " ".join(["python", *_relative(sys.argv)]),
    "commit": COMMIT,
    "hardware": hardware(),
    "versions": {
      "python": platform.python_version(),
      **{
        package: importlib.metadata.version(package)
        for package in ("jax", "jaxlib", "flax", "optax", "numpy")
      },
      **_compilers(),
    },
  }


def join_commits(commits: Iterable[str | None]) -> str:
  """Joins the commits of the code that made a row, for its "commit"."""
  return " ".join(dict.fromkeys(x or "unknown" for x in commits))


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
  count = os.cpu_count()
  if hasattr(os, "sched_getaffinity"):  # On Linux.
    count = len(os.sched_getaffinity(0))
  return f"{count} {'core' if count == 1 else 'cores'} of {model}"


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


def _compilers():
  """Returns the versions of the compilers for other devices that are here."""
  found = {}
  for package in ("libtpu", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[package] = importlib.metadata.version(package)
  return found


def _relative(argv):
  """Returns a command without the folders of this machine in it."""
  script = pathlib.Path(argv[0]).resolve()
  if script.is_relative_to(RESULTS.parents[1]):
    script = script.relative_to(RESULTS.parents[1])
  pairs = []
  for argument in argv[1:]:
    if pairs and not argument.startswith("--"):
      pairs[-1] += f"={argument}"  # The value of the flag before.
    else:
      pairs.append(argument)
  arguments = []
  for argument in pairs:
    name, equals, value = argument.partition("=")
    if name == "--workdir":
      continue
    if pathlib.Path(value).is_absolute():
      value = pathlib.Path(value).name
    arguments.append(f"{name}{equals}{value}")
  return [str(script), *arguments]


def _read_stretch(path, start):
  """Returns the rows of an interrupted run, if there is one.

  Args:
    path: Its file.
    start: The `origin` of the run that continues it.

  Returns:
    A list for each case. There is none if nobody could continue that run.

  Raises:
    ValueError: If it has another origin. To measure again would lose its rows.
  """
  if not path.exists():
    return []
  stored = json.loads(path.read_text())
  if not _is_certain(stored["commit"]):
    return []
  for key, value in start.items():
    if stored[key] != value:
      raise ValueError(
        f"{path.name} has {len(stored['rows_of_cases'])} measured cases with "
        f"{key} {stored[key]}, and this run has {value}: continue that one, or "
        f"remove {path}"
      )
  return stored["rows_of_cases"]


def _is_certain(commit):
  """Returns whether a commit says exactly which code ran."""
  return commit is not None and not commit.endswith("-dirty")


def _write(path, record):
  """Writes a file that is either the old one or the new one."""
  RESULTS.mkdir(exist_ok=True)
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(record, indent=1) + "\n")
  temporary.replace(path)
