"""Planted faults: one line of slim is changed, and a test has to fail.

  python tests/mutations                  all of them, two at a time
  python tests/mutations lsh rewind       those with such words in them
  python tests/mutations --check          only whether entries fit the code

Each entry of `MUTATIONS`, in a file per package of slim/, names a file there,
what stands there, what is put in its place, and the tests that are to notice.
Each runs in a copy of the repository, so that the working tree stays as it is.
Before, the tests run once without a fault. The exit code is 1 if a fault
survives, and 2 if an entry no longer fits the code or the tests fail without a
fault.
"""

import argparse
import concurrent.futures
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time

import commands
import config
import data
import documents
import generation
import kernels_attention
import kernels_scan
import models
import recurrences
import runs
import scale
import tools
import training

ROOT = pathlib.Path(__file__).parents[2]
FILES = (
  kernels_attention,
  kernels_scan,
  recurrences,
  models,
  training,
  scale,
  runs,
  config,
  data,
  documents,
  commands,
  tools,
  generation,
)
MUTATIONS = [mutation for file in FILES for mutation in file.MUTATIONS]


def main() -> int:
  """Plants the chosen faults and prints what became of them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("words", nargs="*", help="choose mutations by these")
  parser.add_argument("--root", type=pathlib.Path, default=ROOT)
  parser.add_argument("--jobs", type=int, default=2)
  parser.add_argument("--check", action="store_true", help="plant nothing")
  arguments = parser.parse_args()
  chosen = [
    mutation
    for mutation in MUTATIONS
    if not arguments.words
    or any(word in " ".join(mutation[:3]) for word in arguments.words)
  ]
  stale = [x for x in chosen if _count(arguments.root, x) != 1]
  for mutation in stale:
    print(f"stale: {mutation.file}: {mutation.old!r}")
  if stale or arguments.check:
    return 2 if stale else 0
  with tempfile.TemporaryDirectory() as folder:
    copies = queue.SimpleQueue()
    for i in range(arguments.jobs):
      copies.put(_copy(arguments.root, pathlib.Path(folder, str(i))))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
      return _run(pool, copies, chosen)


def _run(pool, copies, mutations):
  """Runs the tests without faults, then with each; returns the exit code."""
  tests = sorted({mutation.tests for mutation in mutations})
  without = pool.map(lambda its: _try(copies, its), tests)
  for its, (fails, seconds) in zip(tests, without, strict=True):
    print(f"{'FAILS' if fails else 'passes':8} {seconds:5.0f} s  {its}")
    if fails:
      return 2
  survivors = 0
  found = pool.map(lambda x: _try(copies, x.tests, x), mutations)
  for mutation, (fails, seconds) in zip(mutations, found, strict=True):
    survivors += not fails
    verdict = "caught" if fails else "SURVIVED"
    print(f"{verdict:8} {seconds:5.0f} s  {mutation.file}: {mutation.new!r}")
  print(f"{len(mutations) - survivors} of {len(mutations)} caught")
  return int(survivors > 0)


def _count(root, mutation):
  """How often the line that is to be changed stands in its file."""
  path = root / "slim" / mutation.file
  return path.read_text().count(mutation.old) if path.exists() else 0


def _copy(root, target):
  """Copies the repository, without environments and what runs have left."""
  ignored = shutil.ignore_patterns(".venv*", ".*_cache", "__pycache__")

  def ignore(folder, names):
    # Not slim/runs and tests/runs.
    results = {"runs"} if pathlib.Path(folder) == root else set()
    return ignored(folder, names) | results

  shutil.copytree(root, target, ignore=ignore)
  return target


def _fails(copy, tests):
  """Tells whether one of the tests fails in a copy."""
  command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header"]
  run = subprocess.run(
    [*command, "-p", "no:cacheprovider"]
    + [f"tests/{name}" for name in tests.split()],
    cwd=copy,
    capture_output=True,
    text=True,
  )
  if run.returncode not in (0, 1, 2):  # 2: they could not be collected.
    raise RuntimeError(run.stdout + run.stderr)
  return run.returncode != 0


def _try(copies, tests, mutation=None):
  """Runs tests in a free copy, with a fault or without; tells if they fail."""
  copy = copies.get()
  started = time.monotonic()
  try:
    if mutation is None:
      return _fails(copy, tests), time.monotonic() - started
    path = copy / "slim" / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.old, mutation.new))
    try:
      return _fails(copy, tests), time.monotonic() - started
    finally:
      path.write_text(text)
  finally:
    copies.put(copy)


if __name__ == "__main__":
  sys.exit(main())
