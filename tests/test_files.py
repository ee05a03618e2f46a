"""Paths are checked before long work, and checks leave nothing behind."""

import os

import pytest

from slim import files


def test_a_home_is_expanded(monkeypatch):
  """Fails if runs go to a folder "~"; a shell leaves --x=~/y alone."""
  monkeypatch.setenv("HOME", "/home/me")
  assert files.local_path("x", "~/runs") == "/home/me/runs"
  assert files.local_path("x", "runs/~") == "runs/~"


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("", "x must be a path, got ''"),
    (" ", "x must be a path, got ' '"),
    ("a\0", "x must be a path, got 'a\\x00'"),
    ("gs://bucket/run", "x must be a path on this machine, got 'gs://bucket"),
    ("gs:/bucket/run", "x must be a path on this machine, got 'gs:/bucket/r"),
    ("file:///run", "x must be a path on this machine, got 'file:///run': mo"),
    ("~no_such_user/x", "x must be a path, got '~no_such_user/x', and there"),
  ],
)
def test_what_is_no_path_here_is_refused(path, message):
  """Fails if a bucket becomes a folder named "gs:"."""
  with pytest.raises(ValueError) as error:
    files.local_path("x", path)
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, with a file and a dangling link."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").touch()
  (tmp_path / "link").symlink_to("nowhere")
  return tmp_path


def refuse(*args):
  """Simulates a disk that even root cannot write to."""
  raise OSError(30, "Read-only file system")


@pytest.mark.parametrize("path", ["new", "new/run", "."])
def test_a_folder_that_can_be_written_is_left_as_it_is(folder, path):
  """Fails if a refused run leaves a folder that refuses the next one."""
  files.check_folder("x", path)
  assert sorted(os.listdir()) == ["file", "link"]


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("file", "x must be a folder, got the file /"),
    ("link", "x must be a folder, got the file /"),
    ("file/a/b", "x must be a folder, got file/a/b, below the file /"),
    (f"a/{'b' * 300}", "x: cannot write a/bbb"),
    ("/proc/none/run", "x: cannot write /proc/none/run: "),
  ],
)
def test_a_folder_that_cannot_be_written_is_one_line(folder, path, message):
  """Fails if a run fails minutes later, at its first checkpoint."""
  with pytest.raises(ValueError) as error:
    files.check_folder("x", path)
  assert str(error.value).startswith(message)
  assert sorted(os.listdir()) == ["file", "link"]


@pytest.mark.parametrize("path", [".", "new/run"])
def test_a_read_only_disk_is_one_line(folder, monkeypatch, path):
  """Fails if permissions, which root has, hide a read-only disk."""
  monkeypatch.setattr(os, "mkdir", refuse)
  with pytest.raises(ValueError) as error:
    files.check_folder("x", path)
  assert str(error.value) == (
    f"x: cannot write {path}: Read-only file system: choose another place"
  )


def test_a_new_file_is_left_to_be_written(folder):
  """Fails if the check creates the file that it checks."""
  files.check_new_file("x", "new")
  assert sorted(os.listdir()) == ["file", "link"]


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("file", "x must be a new file, and file exists: choose another name"),
    ("link", "x must be a new file, and link exists: choose another name"),
    (".", "x must be a new file, and . exists: choose another name"),
    ("a/b", "x: cannot write a/b: its folder does not exist: create it"),
    ("b" * 300, "x: cannot write bbb"),
    ("/proc/none", "x: cannot write /proc/none: "),
  ],
)
def test_a_file_that_cannot_be_new_is_one_line(folder, path, message):
  """Fails if the results of minutes cannot be written."""
  with pytest.raises(ValueError) as error:
    files.check_new_file("x", path)
  assert str(error.value).startswith(message)
  assert sorted(os.listdir()) == ["file", "link"]


def test_an_error_of_the_disk_says_what_is_written():
  """Fails if the message names no file, as that of `write` does."""
  with pytest.raises(ValueError) as error:
    with files.writing("runs/metrics.jsonl"):
      raise OSError(28, "No space left on device")
  assert str(error.value) == (
    "cannot write runs/metrics.jsonl: No space left on device: free space there"
  )
