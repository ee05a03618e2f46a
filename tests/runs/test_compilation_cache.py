"""Where compiled programs are kept."""

import logging
import os
import warnings

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from slim.runs import compilation_cache

NAME = "jax_compilation_cache_dir"
SHORTEST = "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture(autouse=True)
def as_before():
  """Restores the setting of JAX, and how warnings are shown."""
  before = {name: jax.config.values[name] for name in (NAME, SHORTEST)}
  jax.config.update(NAME, None)
  with warnings.catch_warnings():
    warnings.simplefilter("always")
    yield
  for name, value in before.items():
    jax.config.update(name, value)
  reset_cache()


def test_the_folder_is_that_of_the_user_and_the_machine(monkeypatch):
  """Fails if programs of another CPU or version are run."""
  monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
  folder = compilation_cache.default_folder()
  assert folder.startswith(f"/cache/slim/jax-{jax.__version__}-")
  assert folder == compilation_cache.default_folder()
  monkeypatch.delenv("XDG_CACHE_HOME")
  assert compilation_cache.default_folder().startswith("~/.cache/slim/jax-")


def test_a_folder_is_used_unless_there_is_one(tmp_path):
  """Fails if the user's own setting is replaced, or "none" is a folder."""
  compilation_cache.use_cache("none")
  assert jax.config.values[NAME] is None
  with pytest.raises(ValueError, match="--compilation_cache must be a path on"):
    compilation_cache.use_cache("gs://bucket")
  (tmp_path / "file").write_text("")
  compilation_cache.use_cache(str(tmp_path / "file"))  # It is no folder.
  assert jax.config.values[NAME] is None
  for folder in ("mine", "other"):
    compilation_cache.use_cache(str(tmp_path / folder))
    assert jax.config.values[NAME] == str(tmp_path / "mine")


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
  """Fails if a flag that nobody has given ends a run."""
  monkeypatch.setattr(os.path, "expanduser", lambda path: path)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  compilation_cache.use_cache(compilation_cache.default_folder())
  assert jax.config.values[NAME] is None
  with pytest.raises(ValueError, match="there is no such user"):
    compilation_cache.use_cache("~/mine")


def test_a_damaged_program_is_replaced(tmp_path, caplog):
  """Fails if half a program, as a full disk leaves it, stays for ever."""
  jax.config.update(SHORTEST, 0.0)
  compilation_cache.use_cache(str(tmp_path))
  reset_cache()

  def compile_anew():
    jax.jit(lambda x: x + 3.5).lower(1.0).compile()
    [path] = tmp_path.glob("jit__lambda*-cache")
    return path

  path = compile_anew()
  whole = path.stat().st_size
  path.write_bytes(path.read_bytes()[: whole // 2])
  with caplog.at_level(logging.INFO, "slim"):
    assert compile_anew() == path
  assert path.stat().st_size > whole * 0.9
  [line] = caplog.messages
  assert line.startswith("the compiled program jit__lambda is not kept: ")
