"""Published texts with tfds: downloaded, put there by hand, or damaged."""

import pathlib
import runpy
import shutil

import pytest

from slim.data import builders, create_dataset
from slim.data.dataset import SPLITS
from tests.data.builders.cases import (
  SCRIPT,
  SETTINGS,
  assert_loads,
  assert_one_line,
  move,
)


@pytest.mark.parametrize("name", ["ptb", "enwik8"])
def test_a_corpus_is_downloaded_once(
  name, published, data_dir, monkeypatch, capfd
):
  """Fails if data does not arrive, or every run downloads it."""
  assert_loads(name, published)
  move(monkeypatch, name, 9)  # No server answers there.
  assert_loads(name, published)
  assert (data_dir / "slim_corpora" / name / "1.0.0").is_dir()
  assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["ptb", "enwik8", "tiny_shakespeare"])
def test_files_put_there_are_taken(name, contents, data_dir):
  """Fails if a machine without a network cannot train."""
  folder = data_dir / "downloads" / "manual" / name
  folder.mkdir(parents=True)
  for file_name, data in contents[name].items():
    (folder / file_name).write_bytes(data)
  assert_loads(name, folder)


def test_where_a_corpus_comes_from_changes_nothing(published, data_dir):
  """Fails if a run cannot continue with the file elsewhere."""
  here, there = (
    create_dataset("enwik8", path=path, **SETTINGS)
    for path in (published / "enwik8.zip", None)
  )
  assert "enwik8, validation: 50000 of 1000000 bytes, " in here.description
  assert here.fingerprint == there.fingerprint


def spoil(folder, kind):
  """Damages the prepared validation split of PTB."""
  [path] = folder.glob("*-validation.*")
  if kind == "cut off":
    path.write_bytes(path.read_bytes()[:-1000])
  if kind == "other bytes":
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
  if kind == "of another split":
    [other] = folder.glob("*-test.*")
    path.write_bytes(other.read_bytes())
  if kind == "missing":
    path.unlink()
  if kind == "without its list of files":
    (folder / "dataset_info.json").unlink()
  if kind.startswith("with "):
    damaged = {"with half a list": b'{"splits": [', "with no list": b"[]"}
    (folder / "dataset_info.json").write_bytes(damaged[kind])


@pytest.mark.parametrize(
  "kind",
  [
    "cut off",
    "other bytes",
    "of another split",
    "missing",
    "without its list of files",
    "with half a list",
    "with no list",
  ],
)
def test_what_was_prepared_and_is_damaged_gets_one_line(
  kind, published, data_dir
):
  """Fails if damaged data ends in a traceback, or is trained on."""
  folder = builders.prepare("ptb").data_dir
  spoil(pathlib.Path(folder), kind)
  with pytest.raises(ValueError) as error:
    builders.load_split("ptb", "validation")
  assert_one_line(error, f"in {folder} is damaged: remove this folder")
  shutil.rmtree(folder)
  assert_loads("ptb", published)


def test_of_two_runs_that_prepare_one_corpus_both_go_on(
  published, data_dir, monkeypatch
):
  """Fails if the slower of two runs is told to download by hand."""
  original = builders.read_files

  def read_slowly(*args):
    monkeypatch.setattr(builders, "read_files", original)
    builders.prepare("ptb")  # As another process does in the meantime.
    return original(*args)

  monkeypatch.setattr(builders, "read_files", read_slowly)
  assert_loads("ptb", published)


def test_the_script_says_where_the_data_is(published, data_dir, capsys):
  """Fails if data cannot be prepared before going offline."""
  script = runpy.run_path(SCRIPT)
  script["download"](["enwik8", "ptb"])
  assert capsys.readouterr().out == (
    f"enwik8: {data_dir}/slim_corpora/enwik8/1.0.0\n"
    f"ptb: {data_dir}/slim_corpora/ptb/1.0.0\n"
  )
  with pytest.raises(ValueError, match="^there is no 'text8': name some of p"):
    script["download"](["ptb", "text8"])
  with pytest.raises(ValueError, match="^there is no '--all': name some of "):
    script["download"](["--all"])
  assert set(SPLITS) == set(builders.prepare("ptb").info.splits)
