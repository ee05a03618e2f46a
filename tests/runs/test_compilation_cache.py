"""Where compiled programs are kept."""

import jax
import pytest

from slim.runs import compilation_cache

NAME = "jax_compilation_cache_dir"


@pytest.fixture(autouse=True)
def as_before():
  """Restores the setting of JAX."""
  before = jax.config.values[NAME]
  jax.config.update(NAME, None)
  yield
  jax.config.update(NAME, before)


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
