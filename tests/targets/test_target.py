"""Targets by name, their memory, and mistakes of the user in one line."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from slim.memory import __main__ as memory
from slim.targets import ACCELERATORS, DoesNotFitError, Target
from tests.commands import run_command

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = f"--config={ROOT}/configs/quickstart.py:smoke"


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--target=cuda:h1000"],
      "error: --target must be one of cpu, cuda:a100, cuda:h100, cuda:h200, "
      "cuda:b200, cuda:l4, cuda:rtx4090, tpu:v4, tpu:v5e, tpu:v5p, tpu:v6e, "
      "tpu:tpu7x, got 'cuda:h1000'\n",
    ),
    (["--target=gpu"], "error: --target must be one of cpu, cuda:a100"),
  ],
)
def test_unknown_targets_are_one_line(flags, message):
  """Fails if a user must read a traceback to learn the names."""
  done = run_command(memory.main, CONFIG, *flags)
  assert done.code == 1
  assert done.errors.startswith(message)
  assert done.errors.count("\n") == 1


def test_effort_is_checked():
  """Fails if a typing error in Python reaches the compiler."""
  with pytest.raises(ValueError, match="^effort must be one of O0, O1, O2, O3"):
    Target("tpu:v5e", effort="O4")


@pytest.mark.parametrize(
  ("name", "error", "advice"),
  [
    (
      "tpu:v5e",
      RuntimeError("JAX TPU support not installed; cannot generate TPU topo"),
      f"`pip install 'jax[tpu]=={jax.__version__}'`",
    ),
    (
      "cuda:h100",
      NotImplementedError("topology not implemented for cuda"),
      f"`pip install jax-cuda12-plugin=={jax.__version__} nvidia-cuda-nvcc-cu",
    ),
    (
      "tpu:v5e",
      RuntimeError(
        "ABORTED: Internal error when accessing libtpu multi-proce"
        "ss lockfile.\nRun"
      ),
      "end the process that holds libtpu",
    ),
  ],
  ids=["no libtpu", "no plugin", "lockfile"],
)
def test_missing_compilers_are_one_line(monkeypatch, name, error, advice):
  """Fails if a user must guess what to install."""

  def fail(**_):
    raise error

  monkeypatch.setattr(topologies, "get_topology_desc", fail)
  with pytest.raises(ValueError) as found:
    Target(name).compile(jnp.sin, jnp.ones(3))
  message = str(found.value)
  assert message.startswith(f"target {name} needs XLA's compiler for it, got ")
  assert advice in message and "\n" not in message


class _Refusing:
  """A jitted function that the compiler refuses."""

  def __init__(self, message):
    self.message = message

  def lower(self, *_):
    return self

  def compile(self, _):
    raise jax.errors.JaxRuntimeError(self.message)


def test_programs_that_do_not_fit_say_so():
  """Fails if what is needed is not named, or is misread."""
  message = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
    "memory space hbm. Size of the program (261.17G) exceeds available HBM "
    "(15.75G)."
  )
  with pytest.raises(DoesNotFitError) as found:
    Target("").compile(_Refusing(message))
  assert found.value.temporary_bytes == int(261.17 * 2**30)
  assert str(found.value).endswith(
    "needs 261.17 GiB of 15.75 GiB for temporary memory alone"
  )


def test_missing_ptxas_is_one_line():
  """Fails if the names of what is missing are not those of a package."""
  message = "UNAVAILABLE: No PTX compilation provider is available. Neither …"
  with pytest.raises(ValueError, match="needs the programs ptxas and libdevic"):
    raise Target("cuda:h100").explain(jax.errors.JaxRuntimeError(message))


def test_memory_of_devices(monkeypatch):
  """Fails if a GPU's share is not JAX's, or this machine's is invented."""
  new, old = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
  monkeypatch.delenv(new, raising=False)
  monkeypatch.delenv(old, raising=False)
  h100 = Target("cuda:h100")
  assert h100.memory_bytes == int(0.75 * h100.accelerator.memory_bytes)
  monkeypatch.setenv(old, ".5")
  assert h100.memory_bytes == int(0.5 * h100.accelerator.memory_bytes)
  monkeypatch.setenv(new, "")  # As if it were not set.
  assert h100.memory_bytes == int(0.5 * h100.accelerator.memory_bytes)
  monkeypatch.delenv(old)
  monkeypatch.setenv(new, ".25")
  assert h100.memory_bytes == int(0.25 * h100.accelerator.memory_bytes)
  monkeypatch.setenv(new, "half")
  with pytest.raises(ValueError, match=f"^{new} must be a number, .*half"):
    _ = h100.memory_bytes
  assert Target("tpu:v5e").memory_bytes == int(15.75 * 2**30)
  assert Target("cpu").memory_bytes is None


@pytest.mark.parametrize("name", ACCELERATORS)
def test_facts_are_in_proportion(name):
  """Fails if a fact of the table has another unit than its neighbours."""
  found = ACCELERATORS[name]
  assert 15 < found.memory_bytes / 2**30 < 200
  assert 0.2e12 < found.bandwidth < 10e12
  float32, tensorfloat32, bfloat16 = found.rates.values()
  assert 1e13 < float32 <= tensorfloat32 <= bfloat16 < 1e16
  assert "http" in found.source or "Guide" in found.source


def test_the_cpu_is_a_target():
  """Fails if `--target=cpu` compiles for another device of this machine."""
  compiled = Target("cpu").compile(
    lambda x: jnp.sort(x @ x, axis=0).sum(1), jnp.ones((64, 64))
  )
  assert Target("cpu").temporary_bytes(compiled) > 0
  assert Target("cpu").platform == "cpu"


@pytest.mark.slow
def test_no_accelerator_is_started():
  """Fails if a command for a target looks for devices first."""
  environment = os.environ | {"JAX_PLATFORMS": "cuda"}
  program = (
    f"from slim.memory.__main__ import main; main(['', {CONFIG!r}, "
    "'--target=cpu'])"
  )
  done = subprocess.run(
    [sys.executable, "-c", program.replace("main(['", "main(['")],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
