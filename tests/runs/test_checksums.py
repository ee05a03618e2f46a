"""Checksums find every damage of a checkpoint."""

import os
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from slim.runs.checkpoints import Checkpointer
from slim.runs.checksums import verify_checksums, write_checksums
from slim.types import TrainState


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A checkpoint with several arrays, and the files in it."""
  workdir = tmp_path_factory.mktemp("run")
  params = {"w": jnp.arange(64.0).reshape(8, 8), "b": jnp.ones(3)}
  checkpointer = Checkpointer(str(workdir), 1)
  checkpointer.save(TrainState(jnp.int32(1), params, ()), {"window": [0.5]})
  checkpointer.close()
  folder = workdir / "checkpoints" / "1"
  files = sorted(x for x in folder.rglob("*") if x.is_file())
  assert {"CHECKSUMS", "run.json", "manifest.ocdbt"} <= {x.name for x in files}
  verify_checksums(str(folder))
  return folder, files


@pytest.mark.parametrize(
  "count", [150, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_no_flipped_bit_is_overlooked(saved, count):
  """Fails if one bit of a checkpoint can change what is restored."""
  folder, files = saved
  random = np.random.default_rng(0)
  for i in range(count):
    file = files[i % len(files)]  # Small ones as often as large ones.
    good = file.read_bytes()
    bit = int(random.integers(8 * len(good)))
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bad)
    with pytest.raises(ValueError):
      verify_checksums(str(folder))
    file.write_bytes(good)
  verify_checksums(str(folder))


def remove(file):
  """Removes the file."""
  file.unlink()


def empty(file):
  """Leaves a file without bytes."""
  file.write_bytes(b"")


def truncate(file):
  """Leaves half of the file."""
  file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def repeat(file):
  """Leaves the file twice."""
  file.write_bytes(2 * file.read_bytes())


def link(file):
  """Puts a link to a device that never ends in the place of the file."""
  file.unlink()
  file.symlink_to("/dev/zero")


def folder_of_that_name(file):
  """Puts a folder in the place of the file."""
  file.unlink()
  file.mkdir()


@pytest.mark.parametrize(
  "damage", [remove, empty, truncate, repeat, link, folder_of_that_name]
)
def test_no_damaged_file_is_overlooked(saved, tmp_path, damage):
  """Fails if a file can be lost or replaced; it is named, in one line."""
  folder, files = saved
  for number, file in enumerate(files):
    copy = tmp_path / str(number)
    shutil.copytree(folder, copy)
    name = os.path.relpath(file, folder)
    damage(copy / name)
    with pytest.raises(ValueError) as error:
      verify_checksums(str(copy))
    message = str(error.value)
    assert "\n" not in message
    assert name in message or name == "CHECKSUMS"


def test_a_file_that_was_not_there_is_found(tmp_path):
  """Fails if lines can be cut from CHECKSUMS; hidden files are ignored."""
  for name in ("a", "b"):
    pathlib.Path(tmp_path, name).write_text(name)
  write_checksums(str(tmp_path))
  (tmp_path / ".DS_Store").write_text("hidden")
  verify_checksums(str(tmp_path))
  lines = (tmp_path / "CHECKSUMS").read_text().splitlines(keepends=True)
  (tmp_path / "CHECKSUMS").write_text(lines[0])
  with pytest.raises(ValueError, match="b is not in CHECKSUMS"):
    verify_checksums(str(tmp_path))
