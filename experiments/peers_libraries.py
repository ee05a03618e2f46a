"""Attention of other libraries beside slim's, on two cores.

PyTorch, Hugging Face's transformers and performer-pytorch run in an environment
that this script makes in --workdir from experiments/peers/requirements.txt.
jax-linear-attention has another one, as it needs Python 3.12. Each library has
a process of its own. For each operation slim and the libraries get the same
arrays (float32, batch 1, heads of width 64):

- The results of both passes are compared with slim's.
- Then all are timed in turns, in an order that is drawn anew for each round: a
  program is slower right after one that uses much memory. Rows have medians,
  and slim_over_peer is below 1 where slim is faster.
- Memory is the growth of the process to its peak in one call, results included.

A library has a row with the reason if it does not run, or needs more than 12
GiB. The script needs Linux, and a network to install.

  python experiments/peers_libraries.py [--quick]
"""

import contextlib
import functools
import os
import pathlib
import random
import shutil
import sys
import tempfile
from typing import Any

import numpy as np
from absl import flags
from arguments import define_count, define_quick, define_workdir
from measurements import seconds_in_turns
from peer_cases import CASES, PEERS, Case, make_inputs
from peer_environments import (
  PeerError,
  Worker,
  make_environments,
)
from record import measure_in_stretches, print_table, save

from slim import command_line

_QUICK = define_quick("1,024 tokens, beside jax.nn only: needs no environment.")
_ROUNDS = define_count("rounds", 3, "Timings of each program.")
_WORKDIR = define_workdir("runs/peers", "Folder of the environments.")
_NEWER_PYTHON = flags.DEFINE_string(
  "newer_python",
  None,
  "Python 3.12 or newer, for jax-linear-attention. Default: one on the PATH.",
)
_THREADS = 2
_MAX_DIFFERENCE = 1e-3  # Of results; with more it is another function.


def main() -> None:
  """Installs, compares, times, prints and saves."""
  workdir, newer = pathlib.Path(_WORKDIR.value), _NEWER_PYTHON.value
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f"--workdir must be a folder, got {workdir}")
  if newer is not None and not shutil.which(newer):
    raise ValueError(f"--newer_python={newer}: there is no such program")
  if not hasattr(os, "sched_setaffinity"):
    raise ValueError(f"this needs Linux, got {sys.platform}")
  # Before JAX counts them. The libraries inherit it.
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_THREADS])
  cases = CASES
  pythons: dict[str, str | pathlib.Path] = {"in_slim": sys.executable}
  if _QUICK.value:
    cases = CASES[:2]
  else:
    pythons |= make_environments(workdir, newer)
  name, quick = "peers_libraries", _QUICK.value
  one = functools.partial(measure, pythons=pythons)
  rows = measure_in_stretches(name, cases, one, quick=quick)
  print_table(rows)
  save(name, rows, quick=quick, threads=_THREADS, rounds=_ROUNDS.value)


def measure(
  case: Case, pythons: dict[str, str | pathlib.Path]
) -> list[dict[str, Any]]:
  """Measures slim and the libraries at one operation.

  Args:
    case: The operation.
    pythons: Interpreters by module. Libraries of other modules are left out.

  Returns:
    A row for each pass and library.
  """
  slim = f"slim, {case.operation}"
  peers = {slim: ("in_slim", {})} | PEERS[case.operation]
  peers = {name: x for name, x in peers.items() if x[0] in pythons}
  rows, workers, versions, notes = [], {}, {}, {}
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.ExitStack() as stack,
  ):
    inputs = f"{folder}/inputs.npz"
    np.savez(inputs, **make_inputs(case))
    for name, (module, settings) in peers.items():
      try:
        if module not in workers:
          worker = Worker(pythons[module], module)
          workers[module] = stack.enter_context(worker)
        settings = case.settings() | settings
        loaded = workers[module].ask(
          load=name, settings=settings, inputs=inputs
        )
        versions[name] = loaded["versions"]
      except PeerError as error:
        if name == slim:
          raise
        notes[name] = str(error)
    for direction in ("forward", "gradient"):
      programs = {
        name: functools.partial(workers[module].ask, run=[name, direction])
        for name, (module, _) in peers.items()
        if name not in notes
      }
      found = run(programs, slim, direction, folder)
      ours = found.pop(slim)
      for name in peers:
        theirs = found.get(name, {"note": notes.get(name)})
        if name != slim:
          rows.append(
            case._asdict()
            | {"pass": direction, "library": name}
            | {"versions": versions.get(name)}
            | make_columns(ours, theirs)
          )
  return rows


def run(programs, slim, direction, folder):
  """Compares the results of programs with slim's, and times them in turns."""
  found = {}
  for name, ask in programs.items():
    outputs = f"{folder}/{name}.npz"
    try:
      found[name] = ask(outputs=outputs)
      found[name]["difference"] = difference(direction, folder, slim, name)
      if not found[name]["difference"] <= _MAX_DIFFERENCE:  # Or it is NaN.
        raise PeerError("its results differ")
    except PeerError as error:
      if name == slim:
        raise
      found.setdefault(name, {})["note"] = str(error)
  seconds = {name: [] for name in programs if "note" not in found[name]}
  orders = random.Random(0)
  for _ in range(_ROUNDS.value):
    names = orders.sample(list(seconds), len(seconds))
    times = seconds_in_turns([programs[name] for name in names], 1)
    for name, [time] in zip(names, times, strict=True):
      seconds[name].append(time)
  return {
    name: x | {"seconds": float(np.median(seconds[name]))}
    if name in seconds
    else x
    for name, x in found.items()
  }


def difference(direction: str, folder: str, slim: str, name: str) -> float:
  """Returns the largest difference of two results, relative to the largest.

  Args:
    direction: "forward" or "gradient". The forward pass is compared where the
      cotangent is not zero.
    folder: Where the results are.
    slim: The name of one.
    name: That of the other.

  Returns:
    The largest over the arrays of the results.
  """
  with (
    np.load(f"{folder}/inputs.npz") as inputs,
    np.load(f"{folder}/{slim}.npz") as right,
    np.load(f"{folder}/{name}.npz") as found,
  ):
    weight = inputs["y_ct"] != 0 if direction == "forward" else 1
    differences = [
      np.abs((found[x] - right[x]) * weight).max()
      / np.abs(right[x] * weight).max()
      for x in right.files
    ]
  return float(np.max(differences))  # NaN if one is.


def make_columns(
  ours: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
  """Puts what was found for slim and for a library into the columns of a row.

  Args:
    ours: "seconds" and "peak_MiB".
    theirs: The same and "difference", or what there is of it and a "note".

  Returns:
    The columns. Those that were not measured are None.
  """
  seconds = theirs.get("seconds")
  return {
    "slim_over_peer": ours["seconds"] / seconds if seconds else None,
    "slim_seconds": ours["seconds"],
    "seconds": seconds,
    "slim_peak_MiB": ours["peak_MiB"],
    "peak_MiB": theirs.get("peak_MiB"),
    "difference": theirs.get("difference"),
    "note": theirs.get("note"),
  }


if __name__ == "__main__":
  command_line.run(main)
