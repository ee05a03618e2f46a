"""Certificates of the repository's own models, and the command line."""

import json
import subprocess
import sys

import pytest

from slim.certify.models import certify_config
from tests.helpers import SMALL, make_config

SLIM = SMALL | dict(
  data__sequence_length=64, gradient__method="slim", model__num_layers=2
)


# By default only the quickstart, below.
@pytest.mark.parametrize(
  "settings",
  [
    pytest.param(
      dict(gradient__policy="rewind", model__num_layers=1),
      marks=pytest.mark.full,
    ),
    pytest.param(
      dict(
        gradient__policy="rewind",
        model__feature_map="favor",
        model__qk_norm=True,
        model__dtype="bfloat16",
      ),
      marks=pytest.mark.full,
    ),
    pytest.param(
      dict(
        gradient__policy="store",
        model__reversible=True,
        model__norm="pre",
        model__dropout=0.2,
      ),
      marks=pytest.mark.full,
    ),
  ],
  ids=["rewind", "favor-bfloat16", "reversible-dropout"],
)
def test_our_models_are_certified(settings):
  """A model would be refused that is right, or be wrong."""
  certificate = certify_config(make_config(**SLIM | settings))
  assert certificate.ok, f"{certificate}\n{certificate.describe_failure()}"


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (
      dict(gradient__method="full"),
      r"config.gradient.method must be 'slim' or 'full_then_slim' to have",
    ),
    (
      dict(data__sequence_length=14),
      "config.data.sequence_length must be at least 16 to be cut",
    ),
  ],
)
def test_what_has_no_chunks_is_refused(settings, message):
  """It would fail somewhere inside, or certify nothing."""
  with pytest.raises(ValueError, match=message):
    certify_config(make_config(**SLIM | settings))


@pytest.mark.slow
def test_command_line(tmp_path):
  """It would not run, or write nothing."""
  output = tmp_path / "certificate.json"
  done = subprocess.run(
    [sys.executable, "-m", "slim.certify", f"--output={output}"]
    + ["--config=configs/quickstart.py:smoke"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "gradient of params" in done.stdout
  found = json.loads(output.read_text())
  assert found["ok"]
  assert {check["dtype"] for check in found["checks"]} == {"float32", "float64"}


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("there.json", "--output must be a new file, and {} exists: choose"),
    ("no/folder.json", "--output: cannot write {}: its folder does not exist"),
  ],
)
def test_where_nothing_can_be_written_is_refused(tmp_path, name, message):
  """A file would be lost, or all the work before it is written."""
  (tmp_path / "there.json").write_text("old")
  output = tmp_path / name
  done = subprocess.run(
    [sys.executable, "-m", "slim.certify", f"--output={output}"]
    + ["--config=configs/quickstart.py:smoke"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr.startswith("error: " + message.format(output))
  assert len(done.stderr.splitlines()) == 1
  assert (tmp_path / "there.json").read_text() == "old"
