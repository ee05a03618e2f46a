"""What all tests share: JAX's settings, `--full`, and a few fixtures."""

import os

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

# On the CPU the suite means the same everywhere; JAX_PLATFORMS=cuda overrides.
# The environment is for the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
# Eight devices, for sharding, cost the other tests nothing. A setting and not
# XLA_FLAGS: started processes shall see the machine as a user does.
jax.config.update("jax_num_cpu_devices", 8)
# A forgotten axis is an error, and not a silent outer product.
jax.config.update("jax_numpy_rank_promotion", "raise")

# The first example of a test compiles, so no deadline fits all of them.
hypothesis.settings.register_profile(
  "slim", deadline=None, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("slim")


def pytest_addoption(parser):
  """Adds `--full`."""
  parser.addoption(
    "--full",
    action="store_true",
    help="run every case of each grid, not only a cover of all pairs",
  )


def pytest_collection_modifyitems(config, items):
  """Without `--full`, leaves out what is marked `full`."""
  if config.getoption("full"):
    return
  left_out = [item for item in items if item.get_closest_marker("full")]
  items[:] = [item for item in items if not item.get_closest_marker("full")]
  config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def x64():
  """Runs the test with 64-bit types: a Python float becomes a float64."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
  """Compiles equal programs once, in a file of tests that asks for it."""
  folder = str(tmp_path_factory.mktemp("cache"))
  settings = {
    "jax_compilation_cache_dir": folder,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  reset_cache()  # It looks at the settings only once.
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  reset_cache()
