"""Runs that do not fit are refused before anything is allocated."""

import jax
import jax.numpy as jnp
import pytest

from slim import train
from slim.plan import fits
from slim.training.compiled import CompiledGradient, CompiledSteps
from slim.types import Batch, TrainState
from tests.helpers import make_config


def refused(tmp_path, **settings):
  """Trains, and returns the message of the refusal."""
  folder = tmp_path / "run"
  with pytest.raises(ValueError) as error:
    train.train_and_evaluate(make_config(**settings), str(folder))
  assert not folder.exists()
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_model_that_is_too_wide_is_refused(tmp_path):
  """Fails if it is killed by the system, or hangs."""
  message = refused(tmp_path, model__width=200_000, model__num_heads=100)
  assert message.startswith("the run needs ")
  assert "TiB (parameters " in message
  assert "has " in message and "left: lower config.model.width" in message


def test_a_sequence_that_is_too_long_is_refused(tmp_path, monkeypatch):
  """Fails if training starts, and fails at its first step."""
  monkeypatch.setattr(fits, "free_bytes", lambda: 5 * 2**20)
  monkeypatch.setattr(fits, "process_bytes", lambda: 2**20)
  message = refused(
    tmp_path,
    model__width=16,
    model__num_layers=1,
    model__num_heads=2,
    data__sequence_length=4096,
    data__vocab_size=8,
    gradient__method="full",
    train__batch_size=8,
  )
  assert message.startswith("an update needs ")
  assert "activations" in message
  assert message.endswith("slim.plan --config=… --budget=6.0MiB`")


def test_an_update_needs_its_batch(monkeypatch):
  """Fails if a long batch of a small model runs out of memory."""
  params = {"w": jax.ShapeDtypeStruct((10,), jnp.float32)}
  state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, ())
  batch = Batch(*[jax.ShapeDtypeStruct((1, 100), jnp.int32)] * 3)
  update = jax.jit(lambda x: x).lower(1.0).compile()
  compiled = CompiledSteps({"full": CompiledGradient(None, 50)}, update)
  needed = 40 + 1200 + 50
  monkeypatch.setattr(fits, "free_bytes", lambda: needed)
  fits.check_steps_fit(state, batch, compiled)
  monkeypatch.setattr(fits, "free_bytes", lambda: needed - 1)
  with pytest.raises(ValueError, match="the batch 1.2 KiB, activations"):
    fits.check_steps_fit(state, batch, compiled)


def test_what_is_left_is_that_of_the_smallest_limit(monkeypatch):
  """Fails if a container is promised the memory of its host."""
  files = {
    "/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  4096 kB\n",
    "/proc/self/cgroup": "4:cpu,memory:/job/step\n1:cpuset:/x\n0::/job\n",
    "/sys/fs/cgroup/memory.max": "max\n",
    "/sys/fs/cgroup/memory.current": "7\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "3000\n",
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "2000\n",
    "/sys/fs/cgroup/memory/job/memory.stat": (
      "cache 9\ninactive_file 300\nactive_file 200\n"
    ),
    "/sys/fs/cgroup/memory/job/step/memory.limit_in_bytes": "9000\n",
    "/sys/fs/cgroup/memory/job/step/memory.usage_in_bytes": "1\n",
    "/sys/fs/cgroup/job/memory.max": "5000\n",
    "/sys/fs/cgroup/job/memory.current": "3800\n",
  }
  monkeypatch.setattr(fits, "_read", lambda path: files.get(path, ""))
  assert fits.free_bytes() == 1200
  del files["/sys/fs/cgroup/job/memory.max"]
  assert fits.free_bytes() == 1500
  del files["/sys/fs/cgroup/memory/job/memory.limit_in_bytes"]
  assert fits.free_bytes() == 8999
  del files["/proc/self/cgroup"]
  assert fits.free_bytes() == 4096 * 1024
  files.clear()  # Not Linux.
  assert fits.free_bytes() is None
