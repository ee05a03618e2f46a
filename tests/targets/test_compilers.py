"""XLA's compilers for GPUs and TPUs, where they are installed."""

import importlib.util
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from slim.certify import certify
from slim.kernels import chunked_softmax_attention
from slim.memory.__main__ import analyze_config
from slim.plan import plan
from slim.targets import ACCELERATORS, Target
from tests.helpers import SMALL, make_config

ROOT = pathlib.Path(__file__).parents[2]

INSTALLED = {
  "tpu": importlib.util.find_spec("libtpu") is not None,
  "cuda": importlib.util.find_spec("jax_cuda12_plugin") is not None,
}
pytestmark = pytest.mark.slow


def param(name):
  """Returns a case that is skipped without the compiler for it."""
  missing = not INSTALLED[name.partition(":")[0]]
  return pytest.param(
    name, marks=pytest.mark.skipif(missing, reason="compiler not installed")
  )


BOTH = [param("cuda:h100"), param("tpu:v5e")]


def temporary_bytes(name, **settings):
  """Compiles the gradient of a config; returns its temporary memory."""
  config = make_config(**SMALL | settings)
  [(_, report, _)] = analyze_config(config, Target(name))
  return report.temporary_bytes


@pytest.mark.parametrize("name", [param(name) for name in ACCELERATORS])
def test_every_accelerator_is_compiled_for(name):
  """Fails if XLA does not accept what the table says of a device."""
  target = Target(name)
  compiled = target.compile(
    lambda x: jnp.sort(x @ x, axis=0).sum(1),
    jax.ShapeDtypeStruct((512, 512), jnp.float32),
  )
  assert target.platform == {"cuda": "gpu", "tpu": "tpu"}[name.split(":")[0]]
  assert 2**20 <= target.temporary_bytes(compiled) < 2**23


@pytest.mark.parametrize("method", ["slim", "full"])
@pytest.mark.parametrize("name", BOTH)
def test_reversible_layers_are_flat_in_depth(name, method):
  """Fails if the gradient keeps more of a further layer than its states."""
  few, many = (
    temporary_bytes(
      name,
      model__reversible=True,
      model__num_layers=num_layers,
      model__width=128,
      model__num_heads=1,
      model__attention="linear" if method == "slim" else "chunked_softmax",
      model__mlp_chunk_size=512 if method == "full" else None,
      data__sequence_length=4096,
      gradient__chunk_size=512,
      gradient__method=method,
      train__batch_size=1,
    )
    for num_layers in (2, 6)
  )
  states = 0
  if method == "slim":  # Two with their rounding errors, and the cotangent.
    states = 4 * 5 * (128 * 128 + 8 * 128) * 4
  # 1.05 times at the width of a real model; see experiments/targets.py.
  assert many - states <= 1.1 * few


@pytest.mark.parametrize("name", BOTH)
def test_causal_softmax_has_loops_of_known_length(name):
  """Fails if a GPU's host waits at each turn, or arrays are transposed."""
  shape = jax.ShapeDtypeStruct((1, 65_536, 8, 64), jnp.float32)

  def total(*args):
    return chunked_softmax_attention(*args, is_causal=True).sum()

  target = Target(name)
  compiled = target.compile(jax.grad(total, (0, 1, 2)), *[shape] * 3)
  text = compiled.as_text()
  if target.platform == "gpu":  # The other text leaves it out.
    assert text.count(" while(") == text.count("known_trip_count") > 0
  # An array of all tokens takes 128 MiB.
  assert target.temporary_bytes(compiled) < 160 * 2**20


@pytest.mark.parametrize("name", BOTH)
def test_stored_states_are_not_padded(name):
  """Fails if the states of narrow heads take the rows of wide ones."""
  few, many = (
    temporary_bytes(
      name,
      model__num_layers=1,
      model__width=128,
      model__num_heads=8,
      data__sequence_length=64 * num_chunks,
      gradient__chunk_size=64,
      gradient__policy="store",
      train__batch_size=1,
    )
    for num_chunks in (64, 128)
  )
  state = 8 * 16 * (16 + 1) * 4
  tokens = 64 * 3 * 4
  assert (many - few) / 64 < 1.3 * (state + tokens)


@pytest.mark.parametrize("name", [param("tpu:v5e")])
def test_two_processes_compile_at_once(name):
  """Fails if libtpu is locked although no TPU is used."""
  program = (
    "import jax.numpy as jnp; from slim.targets import Target; "
    "from slim.targets.topologies import start_no_accelerator; "
    "start_no_accelerator(); "
    f"print(Target({name!r}).compile(jnp.sin, jnp.ones(3)) is not None)"
  )
  running = [
    subprocess.Popen(
      [sys.executable, "-c", program],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  for process in running:
    output, errors = process.communicate()
    assert output == "True\n", errors


@pytest.mark.parametrize("name", BOTH)
def test_a_step_is_planned_for_a_device(name):
  """Fails if `plan` looks at this machine in place of the target."""

  def step(params, state, x):
    state = state + x.sum(1)
    return state, jnp.sum(jnp.tanh(x @ params) ** 2).reshape(1, 1)

  found = plan(
    step,
    jax.ShapeDtypeStruct((64, 256), jnp.float32),
    jax.ShapeDtypeStruct((1, 64), jnp.float32),
    jax.ShapeDtypeStruct((1, 2**24, 64), jnp.float32),
    target=Target(name),
  )
  assert found.budget == Target(name).memory_bytes
  assert found.choice.time.at_least > 0
  assert "the process" not in found.resident_bytes
  assert found.choice.memory.total_bytes <= found.budget


@pytest.mark.parametrize("name", BOTH)
def test_a_certificate_is_of_the_target(name):
  """Fails if a step whose memory is flat seems to grow on a device."""

  def step(params, state, x):
    sums = state[:, None] + jnp.cumsum(x, 1)
    y = jnp.tanh(x @ params) * sums
    return sums[:, -1], jnp.sum(y**2).reshape(1, 1)

  x = jax.random.normal(jax.random.key(0), (1, 24, 8))
  certificate = certify(
    step, jnp.eye(8), jnp.ones((1, 8)), x, target=Target(name)
  )
  assert certificate.ok, certificate.describe_failure()
