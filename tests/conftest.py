"""What all tests share: JAX's settings, and fixtures.

A test belongs to the first of three tiers whose rule it meets:

  make test       Holds a property in under a second of processor time, or is
                  the only test of a kernel, model, command or kind of message.
  make test-slow  Marked `slow`: grids by pairs, started or killed processes,
                  memory and rounding of programs compiled as users have them.
  make test-full  Marked `full`: whole products of grids, long random searches.
"""

import contextlib
import os
import signal
import time

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


def _compile_quickly():
  """Lets XLA skip what makes programs fast: most of them run once.

  Compiling is most of the suite's work, and this takes a fifth to a third of
  its time. What a test asks of the programs that users get, it compiles with
  `helpers.AS_USERS`.
  """
  quick = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes"
  )
  if jax.__version_info__ < (0, 11):  # Later versions have lost the choice.
    quick += " --xla_cpu_use_fusion_emitters=false"
  # Read once, with the first device; not for processes that tests start.
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XLA_FLAGS", f"{quick} {os.environ.get('XLA_FLAGS', '')}")
    jax.devices()


_compile_quickly()

# The first example of a test compiles, so no deadline fits all of them.
hypothesis.settings.register_profile(
  "slim", deadline=None, derandomize="CI" in os.environ
)
hypothesis.settings.load_profile("slim")


def pytest_addoption(parser):
  """Adds the option by which a slow machine ends in time."""
  parser.addoption(
    "--until",
    type=float,
    default=float("inf"),
    help="a Unix time; tests that have not begun by then are skipped",
  )


def pytest_runtest_setup(item):
  """Skips what is not begun in time."""
  if time.time() > item.config.getoption("--until"):
    pytest.skip("no time is left: see --until")


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


@pytest.fixture(scope="session")
def compiled_programs(tmp_path_factory):
  """The folder of the compilation cache; each worker has its own."""
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def compilation_cache(compiled_programs):
  """Compiles equal programs once, in all files of tests that ask for it."""
  with _settings(
    jax_compilation_cache_dir=str(compiled_programs),
    jax_persistent_cache_min_compile_time_secs=0.0,
  ):
    reset_cache()  # It looks at the settings only once.
    yield
  reset_cache()


@pytest.fixture
def as_in_a_terminal():
  """Lets signals mean what they do there; nohup and `&` ignore some."""
  wanted = {
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
  }
  before = {n: signal.signal(n, handler) for n, handler in wanted.items()}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)
