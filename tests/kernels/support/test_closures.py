"""Functions with their closure taken out, and types that vary over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.kernels.support.closures import (
  hoist,
  vary_alike,
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


def test_a_hoisted_function_computes_the_same():
  """Arguments or closure would be mixed up, or the structure lost."""
  scale, shift = jnp.full(3, 2.0), np.arange(3.0, dtype=np.float32)

  def fn(x, pair):
    return {"y": x * scale + shift, "z": (pair[0] - pair[1], x)}

  args = (jnp.arange(3.0), [jnp.ones(2), jnp.zeros(2)])
  hoisted, consts = hoist(fn, *args)
  jax.tree.map(np.testing.assert_array_equal, hoisted(consts, *args), fn(*args))
  assert hoisted.out["y"].shape == (3,)


@pytest.mark.parametrize("traced", [True, False])
def test_the_closure_is_an_argument(traced):
  """What a step closes over would get no gradient, traced or not."""
  x = jnp.array([1.0, 2.0])

  def loss(weights):
    closed_over = weights if traced else jnp.array([3.0, 5.0])
    hoisted, consts = hoist(lambda x: (x * closed_over).sum(), x)
    (index,) = (i for i, c in enumerate(consts) if c.shape == (2,))
    consts[index] = weights
    return hoisted(consts, x)

  gradient = jax.jit(jax.grad(loss))(jnp.array([7.0, 7.0]))
  np.testing.assert_array_equal(gradient, x)


def test_keys_can_be_closed_over_under_grad_of_jit():
  """Dropout inside a step would fail, as with `jax.closure_convert`."""
  key = jax.random.key(0)

  def run(x, key):
    hoisted, consts = hoist(
      lambda x: (x * jax.random.normal(key, x.shape)).sum(), x
    )
    return hoisted(consts, x)

  x = jnp.ones(3)
  gradient = jax.grad(jax.jit(run))(x, key)
  np.testing.assert_array_equal(gradient, jax.random.normal(key, (3,)))


def test_without_a_mesh_nothing_varies():
  """Programs for one device would be changed, or fail."""
  tree = {"a": jnp.ones(2), "n": jnp.arange(3), "key": jax.random.key(0)}
  assert jax.tree.leaves(vary_alike(tree)) == jax.tree.leaves(tree)


def test_a_cast_here_sums_the_gradient_of_replicated_arrays():
  """A loop over replicated and sharded arrays would refuse its carry."""

  def fn(w, x):
    w, x, n = vary_alike((w, x, jnp.arange(2)))
    assert all(
      jax.typeof(x).manual_axis_type.varying == {"data"} for x in (w, n)
    )
    return (w * x).sum()

  specs = (PartitionSpec(), PartitionSpec("data"))
  gradient = data_parallel(jax.grad(fn), specs, PartitionSpec())
  # One sum over the devices, and not one for each use.
  np.testing.assert_array_equal(gradient(jnp.ones(1), jnp.arange(8.0)), [28.0])


@pytest.mark.parametrize("dtype", [None, jnp.float32])
def test_zeros_vary_as_what_they_are_like(dtype):
  """A sum that starts from them would refuse its first sharded summand."""

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
