"""Every test of this folder runs in a folder where nothing compiles."""

import gzip
import zipfile

import jax
import pytest


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """The current folder with some files; compiling raises an error."""
  # Matplotlib writes to the home folder.
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  (tmp_path / "home").mkdir()
  here = tmp_path / "here"
  here.mkdir()
  monkeypatch.chdir(here)
  (here / "text").write_bytes(b"some text\n" * 300)
  (here / "text.gz").write_bytes(gzip.compress(b"some text\n" * 300))
  with zipfile.ZipFile(here / "text.zip", "w") as archive:
    archive.writestr("text", "some text\n")

  def compile_nothing(*args, **kwargs):
    raise AssertionError("something is compiled")

  monkeypatch.setattr(jax.stages.Lowered, "compile", compile_nothing)
  return here
