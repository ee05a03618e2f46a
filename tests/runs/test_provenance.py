"""What made a result, and what has changed since."""

import json
import os
import subprocess

import pytest

from slim.runs import provenance


def test_a_process_is_described_in_json():
  """Fails if a record cannot be written, or says nothing."""
  process = provenance.describe_process()
  assert json.loads(json.dumps(process)) == process
  assert set(process) == {"versions", "git_commit", "device", "date"}
  assert {"slim", "python", "jax", "optax"} <= set(process["versions"])
  assert process["device"] == "cpu"


def test_changes_are_listed():
  """Fails if a run continues under another version without a word."""
  now = provenance.describe_process() | {"git_commit": "0123"}
  before = now | {
    "versions": now["versions"] | {"jax": "0.1"},
    "device": "abacus",
    "git_commit": "4567",
    "date": "yesterday",
  }
  assert provenance.list_changes(now, now) == []
  assert provenance.list_changes(before, now) == [
    f"jax 0.1 -> {now['versions']['jax']}",
    "device abacus -> cpu",
    "code 4567 -> 0123",
  ]


@pytest.fixture
def repository(tmp_path, monkeypatch):
  """A user's repository with one commit, and slim in one of its folders."""

  def git(*arguments):
    command = ["git", "-c", "user.name=x", "-c", "user.email=x", *arguments]
    return subprocess.run(
      command, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()

  # As within a hook of git, which would name the repository of slim.
  for name in [x for x in os.environ if x.startswith("GIT_")]:
    monkeypatch.delenv(name)
  monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
  path = tmp_path / "environment" / "provenance.py"
  path.parent.mkdir()
  path.write_text("")
  monkeypatch.setattr(provenance, "__file__", str(path))
  git("init")
  git("commit", "--allow-empty", "--message=first")
  return git


def test_the_commit_is_that_of_slim(repository):
  """Fails if a record names a commit of the user's own project."""
  assert provenance.git_commit() is None
  repository("add", "environment")
  repository("commit", "--message=second")
  assert provenance.git_commit() == repository("rev-parse", "HEAD")


def test_only_changed_code_is_dirty(repository, tmp_path):
  """Fails if an experiment's own results cast doubt on the next experiment."""
  results = tmp_path / "results.json"
  results.write_text("1")
  repository("add", "environment", "results.json")
  repository("commit", "--message=second")
  commit = repository("rev-parse", "HEAD")
  results.write_text("2")
  assert provenance.git_commit() == commit
  (tmp_path / "environment" / "provenance.py").write_text("1")
  assert provenance.git_commit() == f"{commit}-dirty"
