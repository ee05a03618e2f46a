"""The list of planted faults, which `python tests/mutations` plants."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_planted_faults_fit_the_code():
  """Fails if a line has changed, so that its fault can no longer be planted."""
  run = subprocess.run(
    [sys.executable, "tests/mutations", "--check"],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert run.returncode == 0, run.stdout + run.stderr
