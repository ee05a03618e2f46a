"""Types of arrays inside `shard_map`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.kernels.support.mesh_axes import (
  match_varying_axes,
  zeros_like,
)


def data_parallel(fn, in_specs, out_specs):
  """Runs `fn` on four devices along the axis "data"."""
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
  )
  return jax.jit(
    jax.shard_map(fn, mesh=mesh, in_specs=in_specs, out_specs=out_specs)
  )


def test_without_a_mesh_nothing_varies():
  """Fails if programs for one device change, or fail."""
  tree = {"a": jnp.ones(2), "n": jnp.arange(3), "key": jax.random.key(0)}
  assert jax.tree.leaves(match_varying_axes(tree)) == jax.tree.leaves(tree)


def test_cast_sums_the_gradient_of_replicated_arrays():
  """Fails if a loop over replicated and sharded arrays refuses its carry."""

  def fn(w, x):
    w, x, n = match_varying_axes((w, x, jnp.arange(2)))
    assert all(
      jax.typeof(x).manual_axis_type.varying == {"data"} for x in (w, n)
    )
    return (w * x).sum()

  specs = (PartitionSpec(), PartitionSpec("data"))
  gradient = data_parallel(jax.grad(fn), specs, PartitionSpec())
  # One sum over the devices, not one per use.
  np.testing.assert_array_equal(gradient(jnp.ones(1), jnp.arange(8.0)), [28.0])


@pytest.mark.parametrize("dtype", [None, jnp.float32])
def test_zeros_vary_like_the_given_array(dtype):
  """Fails if a sum from these zeros refuses its first sharded summand."""

  def fn(x):
    zeros = zeros_like(x, dtype)
    assert zeros.dtype == (dtype or x.dtype)
    total, _ = jax.lax.scan(
      lambda total, x: (total + x.astype(total.dtype), None), zeros, x[None]
    )
    return total

  spec = PartitionSpec("data")
  x = jnp.arange(4, dtype=jnp.bfloat16)
  np.testing.assert_array_equal(data_parallel(fn, spec, spec)(x), x)
