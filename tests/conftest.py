"""What all tests share: JAX's settings, `--full`, `--first`, and fixtures."""

import contextlib
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
  """Adds `--full` and `--first`."""
  parser.addoption(
    "--full",
    action="store_true",
    help="run every case of each grid, not only a cover of all pairs",
  )
  parser.addoption(
    "--first",
    action="store_true",
    help="run the first case of each test only, and no slow tests",
  )


def pytest_collection_modifyitems(config, items):
  """Leaves out what is marked `full`, or all but first cases and slow tests."""
  chosen = items
  if not config.getoption("full"):
    chosen = [item for item in items if not item.get_closest_marker("full")]
  if config.getoption("first"):
    by_test = {}
    for item in chosen:
      if item.get_closest_marker("slow"):
        continue
      by_test.setdefault((item.path, item.originalname), item)
    chosen = list(by_test.values())
  kept = set(chosen)
  config.hook.pytest_deselected(items=[x for x in items if x not in kept])
  items[:] = chosen


@pytest.fixture
def x64():
  """Runs the test with 64-bit types: a Python float becomes a float64."""
  with jax.enable_x64(True):
    yield


@contextlib.contextmanager
def _settings(**settings):
  """Changes settings of JAX for a while, also for processes started then."""
  before = {name: jax.config.values[name] for name in settings}
  with pytest.MonkeyPatch.context() as patch:
    for name, value in settings.items():
      jax.config.update(name, value)
      patch.setenv(name.upper(), str(value))
    yield
  for name, value in before.items():
    jax.config.update(name, value)


@pytest.fixture(scope="module")
def quick_compilation():
  """Compiles in half the time, in a file that does not ask about rounding."""
  with _settings(jax_disable_most_optimizations=True):
    yield


@pytest.fixture
def float64(x64):
  """As `x64`, compiled quickly: for a test that computes in float64 only."""
  with _settings(jax_disable_most_optimizations=True):
    yield


@pytest.fixture(scope="module")
def compilation_cache(tmp_path_factory):
  """Compiles equal programs once, in a file of tests that asks for it."""
  with _settings(
    jax_compilation_cache_dir=str(tmp_path_factory.mktemp("cache")),
    jax_persistent_cache_min_compile_time_secs=0.0,
  ):
    reset_cache()  # It looks at the settings only once.
    yield
  reset_cache()
