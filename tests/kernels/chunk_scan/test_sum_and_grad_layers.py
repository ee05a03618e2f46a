"""`sum_and_grad` of stacked layers adds their gradients in place."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.kernels import POLICIES, sum_and_grad
from tests.helpers import assert_gradients_close

WIDTH, LAYERS, VOCAB_SIZE, C = 32, 6, 77, 8


def layered_step(params, state, tokens):
  """A model that scans over stacked layers, with logits at the end."""
  x = params["table"][tokens]

  def layer(x, of_layer):
    w, total = of_layer
    h = jnp.tanh(x @ w["in"]) @ w["out"]
    sums = total[:, None] + jnp.cumsum(h, 1)
    return x + 0.1 * sums, sums[:, -1]

  x, state = jax.lax.scan(layer, x, (params["layers"], state))
  logits = x @ params["table"].T
  return state, jnp.square(jnp.sin(logits)).sum()


def layered_arguments(length, batch=1):
  """Params, state and tokens of `layered_step`."""
  random = np.random.default_rng(0)
  shape = LAYERS, WIDTH, WIDTH
  params = {
    "table": random.normal(size=(VOCAB_SIZE, WIDTH)) / 9,
    "layers": {name: random.normal(size=shape) / 12 for name in ("in", "out")},
  }
  tokens = random.integers(VOCAB_SIZE, size=(batch, length))
  state = np.zeros((LAYERS, batch, WIDTH))
  return jax.tree.map(
    lambda x: jnp.asarray(x, None if x.dtype == np.int64 else np.float32),
    (params, state, tokens),
  )


layered = functools.partial(sum_and_grad, layered_step, chunk_size=C)


@functools.cache
def layered_right(length, batch):
  """The gradient of the whole sequence, by JAX."""
  params, state, tokens = layered_arguments(length, batch)
  fn = jax.value_and_grad(lambda p: layered_step(p, state, tokens)[1])
  return jax.jit(fn)(params)


@pytest.mark.parametrize("length", [4 * C, 4 * C - 3])
def test_gradients_of_stacked_layers_are_added_in_place(length):
  """Fails if the gradient of all layers is formed beside the totals."""
  args = layered_arguments(length)
  compiled = jax.jit(layered).lower(*args).compile()
  assert_gradients_close(compiled(*args), layered_right(length, 1), 5e-6)
  apart = functools.partial(layered, in_place=False)
  others = jax.jit(apart).lower(*args).compile()
  jax.tree.map(np.testing.assert_array_equal, others(*args), compiled(*args))
  more, less = (
    x.memory_analysis().temp_size_in_bytes for x in (others, compiled)
  )
  assert more - less > 0.7 * sum(x.nbytes for x in args[0]["layers"].values())


def test_stacked_layers_under_vmap():
  """Fails if `in_place=False` does not help where Refs cannot be batched."""
  run = functools.partial(layered, in_place=False)
  params, state, tokens = layered_arguments(4 * C, 2)
  found = jax.jit(jax.vmap(run, (None, 1, 0)))(
    params, state[:, :, None], tokens[:, None]
  )
  summed = jax.tree.map(lambda x: x.sum(0), found)
  assert_gradients_close(summed, layered_right(4 * C, 2), 5e-6)


@pytest.mark.parametrize("length", [4 * C, 4 * C - 3])
def test_devices_sum_the_gradient_once(length):
  """Fails if devices wait for each other at each chunk, or do not sum."""
  mesh = jax.make_mesh(
    (2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]
  )
  whole, first, second = (
    PartitionSpec(*axes) for axes in ((), ("data",), (None, "data"))
  )

  def on_each(*args):
    loss, gradient = layered(*args)
    return jax.lax.psum(loss, "data"), gradient

  run = jax.shard_map(
    on_each, mesh=mesh, in_specs=(whole, second, first), out_specs=whole
  )
  args = layered_arguments(length, 2)
  compiled = jax.jit(run).lower(*args).compile()
  assert_gradients_close(compiled(*args), layered_right(length, 2), 5e-6)
  computations = compiled.as_text().split("\n}\n")
  loops = [x for x in computations if not x.strip().startswith("ENTRY")]
  assert not any(re.search(r"= .* all-reduce", x) for x in loops)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("length", [4 * C, 4 * C - 3])
def test_logits_are_computed_once(policy, length):
  """Fails if the walk forward computes more than the state needs."""

  def rewind(params, after, tokens):
    return after, layered_step(params, after, tokens)[1], after

  run = functools.partial(layered, policy=policy, rewind=rewind)
  text = jax.jit(run).lower(*layered_arguments(length)).compile().as_text()
  products = re.findall(rf"= f32\[(?:1,)?(\d+),{VOCAB_SIZE}\]\S* dot\(", text)
  assert sorted(map(int, products)) == sorted({C, length % C or C})
