"""A scan on several devices sums the gradients of its parameters once."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.kernels import POLICIES, scan, sum_and_grad
from tests.kernels.chunk_scan.references import (
  C,
  T,
  assert_close,
  right_gradients,
  value,
)
from tests.kernels.toy import Data, by_scan, make_inputs


@functools.cache
def sharded_gradients(policy, names):
  """Compiles the toy's gradients for four devices, which share the batch.

  Args:
    policy: Of the scan.
    names: Of the inputs to differentiate in.

  Returns:
    The compiled function, and its arguments.
  """
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
  )
  whole, shared = PartitionSpec(), PartitionSpec("data")
  inputs, data = make_inputs(T, "float64", batch_size=8)
  specs = {"params": whole, "weights": whole, "total": shared, "x": shared}

  def gradients(inputs, data):
    chosen = {name: inputs[name] for name in names}
    return jax.grad(
      lambda chosen: value(inputs | chosen, data, by_scan(policy, C))
    )(chosen)

  sharded = jax.shard_map(
    gradients,
    mesh=mesh,
    in_specs=(specs, Data(shared, whole, whole, whole, shared, shared, shared)),
    out_specs={name: specs[name] for name in names},
  )
  lowered = jax.jit(sharded).lower(inputs, data)
  return lowered.compile(), (inputs, data)


@pytest.mark.parametrize(
  "names",
  [
    ("params", "total", "x"),
    pytest.param(("params", "weights", "total", "x"), marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_shard_map(x64, policy, names):
  """Data-parallel training would fail, or its gradient be another one."""
  compiled, args = sharded_gradients(policy, names)
  right = right_gradients(*args)
  assert_close(compiled(*args), {name: right[name] for name in names})


@pytest.mark.parametrize("policy", POLICIES)
def test_devices_sum_the_gradients_of_params_once(x64, policy):
  """They would wait for each other at every chunk."""
  compiled, _ = sharded_gradients(policy, ("params", "total", "x"))
  # A computation of the program begins and ends in the first column.
  computations = {
    text.strip().split(maxsplit=1)[0]: re.findall(
      r"= .* all-reduce(?:-start)?\(", text
    )
    for text in compiled.as_text().strip().split("\n}\n")
  }
  # At most one an array, here kernel, gain and idle; XLA may join them.
  assert 1 <= len(computations.pop("ENTRY")) <= 3
  assert not any(computations.values())


@pytest.mark.parametrize("policy", ["store", "sqrt"])
def test_a_short_first_chunk_may_return_what_devices_share(x64, policy):
  """Fails if it has another type on the mesh than the chunks after it."""
  mesh = jax.make_mesh(
    (2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2]
  )
  x = np.random.default_rng(0).normal(size=(2, 5))

  def step(w, state, x):
    total = jax.lax.psum(jnp.sum(w * x), "data")
    return state + x.sum(1), total.reshape(1, 1)

  def by_scan(w, x):
    state = jnp.zeros(x.shape[0])
    _, out = scan(step, w, state, x, chunk_size=2, policy=policy)
    return out.sum()

  def by_sums(w, x):
    state = jnp.zeros(x.shape[0])

    def with_aux(w, state, x):
      state, total = step(w, state, x)
      return state, (total.sum(), (total.sum(), jnp.float32(x.shape[1])))

    sums, gradient = sum_and_grad(
      with_aux, w, state, x, chunk_size=2, policy=policy, has_aux=True
    )
    return sums, gradient

  def run(w, x):
    return jax.value_and_grad(by_scan)(w, x), by_sums(w, x)

  sharded = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec("data")),
    out_specs=PartitionSpec(),
  )
  (value, gradient), ((loss, (aux, tokens)), other) = jax.jit(sharded)(2.0, x)
  assert_close([value, loss, aux], [2 * x.sum()] * 3)
  assert_close([gradient, other], [x.sum()] * 2)
  assert tokens == 5
