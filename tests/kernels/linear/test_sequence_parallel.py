"""Linear attention that devices share equals that of one device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  PrefixSums,
  add_sums,
  chunk_order,
  chunked_linear_attention,
  init_prefix_sums,
  scan,
  sequence_parallel_linear_attention,
  token_sums,
)
from slim.kernels.linear import sequence_parallel
from tests.helpers import TOLERANCES, assert_gradients_close
from tests.kernels.meshes import on_devices

B, H, M, V = 2, 2, 3, 4
SHARED = functools.partial(
  sequence_parallel_linear_attention, axis_name="sequence", block_size=2
)


def make_arguments(length, dtype):
  """Draws q, k, v and the state of some earlier tokens."""
  random = np.random.default_rng(0)

  def draw(*shape):
    return random.normal(size=shape).astype(dtype)

  q, k = (np.abs(draw(B, length, H, M)) for _ in range(2))
  v = draw(B, length, H, V)
  return q, k, v, state_after(np.abs(draw(B, 5, H, M)), draw(B, 5, H, V))


@jax.jit
def state_after(k, v):
  """The state of these tokens, with error terms."""
  state = init_prefix_sums(B, H, M, V, dtype=k.dtype, compensated=True)
  return add_sums(state, token_sums(k, v))


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(attend, args):
  """Outputs, and gradients that come through both of them."""

  def loss(args):
    y, state = attend(*args)
    weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    # A state for each device counts once.
    share = args[3].kv.size / state.kv.size
    kv, k = jnp.sin(state.kv).sum(), jnp.cos(state.k).sum()
    return (weights * y).sum() + share * (kv + k), (y, state)

  (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(args)
  return out, gradients


@pytest.mark.parametrize(
  ("num_devices", "dtype", "most_to_gather"),
  [
    (3, "float64", 8),
    (2, "float64", 1),
    pytest.param(8, "float64", 8, marks=pytest.mark.slow),
    pytest.param(8, "float64", 1, marks=pytest.mark.slow),
    pytest.param(3, "float32", 8, marks=pytest.mark.slow),
    pytest.param(3, "float32", 1, marks=pytest.mark.slow),
  ],
)
def test_devices_equal_one(
  num_devices, dtype, most_to_gather, x64, monkeypatch
):
  """Fails if a device misses sums of earlier ones, or their gradients."""
  monkeypatch.setattr(sequence_parallel, "_MOST_TO_GATHER", most_to_gather)
  args = make_arguments(num_devices * 5, dtype)
  order = np.arange(num_devices * 5)
  shared = on_devices(SHARED, num_devices, order, num_shared=1, state=True)
  (y, state), gradients = value_and_gradients(shared, args)
  (right_y, right_state), right_gradients = value_and_gradients(
    chunked_linear_attention, args
  )
  tolerance = TOLERANCES[dtype]
  assert_gradients_close((y, gradients), (right_y, right_gradients), tolerance)
  state, right_state = jax.device_get((state, right_state))
  for x, expected in zip(
    jax.tree.leaves(state), jax.tree.leaves(right_state), strict=True
  ):
    # To the last bit, or a loop that carries it would drift apart.
    np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      x[0], expected, rtol=0, atol=tolerance * max(scale, 1)
    )


def test_a_scan_over_shared_chunks(x64):
  """Fails if the tokens of a chunk are in another order than the state."""
  q, k, v, state = make_arguments(3 * 7, "float64")

  def run(q, k, v, state):
    state, y = scan(
      lambda _, state, x: SHARED(*x, state)[::-1],
      (),
      state,
      (q, k, v),
      chunk_size=3,
    )
    return y, state

  order = chunk_order(21, 3, 3)
  shared = on_devices(run, 3, order, num_shared=1, state=True)
  y, _ = jax.jit(shared)(q, k, v, state)
  right, _ = jax.jit(chunked_linear_attention)(q, k, v, state)
  np.testing.assert_allclose(y, right, rtol=1e-12)


def test_one_device_exchanges_nothing():
  """Fails if a program of one device has collectives."""
  update = PrefixSums(jnp.ones((B, H, M, V)), jnp.ones((B, H, M)))
  exchange = functools.partial(
    sequence_parallel.exchange_sums, axis_name="sequence"
  )
  text = jax.jit(
    jax.shard_map(
      exchange,
      mesh=jax.make_mesh((1,), ("sequence",), devices=jax.devices()[:1]),
      in_specs=jax.P(),
      out_specs=jax.P(),
    )
  ).lower(update)
  assert not re.search(
    "all_gather|all_reduce|all_to_all|collective_permute|reduce_scatter",
    text.as_text(),
  )
