"""Softmax attention on a ring of devices equals that of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  chunked_softmax_attention,
  ring_attention,
  softmax_attention,
  zigzag_order,
)
from tests.helpers import AS_USERS, TOLERANCES, assert_gradients_close
from tests.kernels.meshes import TOKENS, make_mesh, on_devices

B, H, G, K, V = 2, 4, 2, 6, 5
RING = functools.partial(
  ring_attention, axis_name="sequence", q_block_size=3, k_block_size=2
)


def make_arguments(length, dtype):
  """Draws q, k and v."""
  random = np.random.default_rng(0)
  shapes = (H, K), (G, K), (G, V)
  return tuple(
    jnp.asarray(random.normal(size=(B, length, *shape)), dtype)
    for shape in shapes
  )


def value_and_gradients(attend, args):
  """The output, and the gradients of all arguments."""

  def loss(args):
    y = attend(*args)
    weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return (weights * y).sum(), y

  (_, y), gradients = jax.value_and_grad(loss, has_aux=True)(args)
  return y, gradients


@pytest.mark.parametrize(
  ("num_devices", "dtype"),
  [
    (3, "float64"),
    pytest.param(2, "float64", marks=pytest.mark.slow),
    pytest.param(8, "float64", marks=pytest.mark.slow),
    pytest.param(1, "float64", marks=pytest.mark.slow),
    pytest.param(3, "float32", marks=pytest.mark.slow),
  ],
)
def test_a_ring_equals_one_device(num_devices, dtype, x64):
  """Fails if a pair of stripes is missed, met twice, or sent to a wrong one."""
  length = 2 * num_devices * 5
  args = make_arguments(length, dtype)
  ring = on_devices(RING, num_devices, zigzag_order(length, num_devices))
  found = jax.jit(lambda args: value_and_gradients(ring, args))(args)
  causal = functools.partial(softmax_attention, is_causal=True)
  right = jax.jit(functools.partial(value_and_gradients, causal))(args)
  assert_gradients_close(found, right, TOLERANCES[dtype])


def test_other_numbers_of_tokens_are_refused():
  """Fails if a token is dropped, or queries meet the keys of others."""
  with pytest.raises(ValueError, match="q must have an even number of tokens"):
    RING(*make_arguments(5, "float32"))
  q, k, v = make_arguments(6, "float32")
  with pytest.raises(ValueError, match="k must have an even number of tokens"):
    RING(q[:, :4], k, v)
  with pytest.raises(ValueError, match="k must have a number of heads"):
    RING(q[:, :, :3], k, v)


def test_an_array_as_scale_is_refused():
  """Fails if the error is one of JAX about concrete values."""
  q, k, v = make_arguments(6, "float32")
  with pytest.raises(ValueError, match="scale must be known when the"):
    jax.jit(lambda scale: RING(q, k, v, scale=scale))(0.5)


@pytest.mark.slow
def test_memory_is_linear_and_half_of_a_gather():
  """Fails if a device keeps the keys of others, as JAX's derivative would."""
  mesh = make_mesh(8)

  def gathered(q, k, v):
    k, v = (
      jax.lax.all_gather(x, "sequence", axis=1, tiled=True) for x in (k, v)
    )
    first = q.shape[1] * jax.lax.axis_index("sequence")
    return chunked_softmax_attention(
      q, k, v, is_causal=True, query_offset=first
    )

  def temporary_bytes(attend, length):
    x = jax.ShapeDtypeStruct(
      (1, length, 4, 64),
      jnp.float32,
      sharding=jax.NamedSharding(mesh, TOKENS),
    )

    def loss(args):
      sharded = jax.shard_map(
        attend, mesh=mesh, in_specs=(TOKENS,) * 3, out_specs=TOKENS
      )
      return sharded(*args).sum()

    compiled = jax.jit(jax.grad(loss)).lower((x, x, x)).compile(AS_USERS)
    return compiled.memory_analysis().temp_size_in_bytes

  ring = functools.partial(ring_attention, axis_name="sequence")
  short, long = (temporary_bytes(ring, n) for n in (16_384, 131_072))
  assert long <= 8.1 * short
  assert long <= 0.5 * temporary_bytes(gathered, 131_072)
