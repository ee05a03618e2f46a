"""Softmax attention under `jax.grad` twice, `jax.jvp`, `vmap` and meshes."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels.softmax import _turns
from tests.helpers import assert_gradients_close
from tests.kernels.softmax.cases import DEFINITION, in_blocks, make_inputs


def test_second_derivatives(x64):
  """Fails if they fail somewhere inside, or are wrong."""
  inputs, _, _ = make_inputs((1, 5, 5, 2, 1, 3, 3))
  k, v = jnp.asarray(inputs["k"]), jnp.asarray(inputs["v"])

  def curvature(form):
    def loss(q):
      return jnp.sin(form(q, k, v)[0]).sum()

    return jax.grad(lambda q: jnp.sum(jax.grad(loss)(q) ** 2))

  q = jnp.asarray(inputs["q"])
  right = jax.jit(curvature(DEFINITION))(q)
  found = jax.jit(curvature(in_blocks(2, 3, "remat")))(q)
  assert_gradients_close(found, right, 1e-12)
  message = "has first derivatives only; .* softmax_attention, or backward='re"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(curvature(in_blocks(2, 3)), q)


def test_forward_mode(x64):
  """Fails if it is wrong, or refused by a form that supports it."""
  inputs, _, _ = make_inputs((1, 5, 5, 2, 1, 3, 3))
  q, k, v = (jnp.asarray(inputs[name]) for name in "qkv")

  def slope(form):
    ones = jnp.ones_like(q)
    return jax.jit(
      lambda q: jax.jvp(lambda q: form(q, k, v)[0], (q,), (ones,))
    )(q)

  form = in_blocks(2, 3, "remat")
  assert_gradients_close(slope(form), slope(DEFINITION), 1e-12)
  with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
    slope(in_blocks(2, 3))


@pytest.mark.parametrize("in_turn", [False, True])
def test_vmap_and_shard_map(x64, monkeypatch, in_turn):
  """Fails if a loop carry varies differently over a mesh than its inputs."""
  if in_turn:
    monkeypatch.setattr(_turns, "_ENOUGH", 1)
  inputs, _, _ = make_inputs((8, 6, 6, 2, 2, 3, 3))
  q, k, v = (jnp.asarray(inputs[name]) for name in "qkv")
  slopes = jnp.array([0.5, 0.25])  # The same on all devices.

  def gradient(q, k, v):
    form = in_blocks(4, 4)
    settings = {
      "is_causal": True,
      "bias_fn": lambda slopes, i, j: slopes[:, None, None] * (j - i),
      "mask_fn": lambda i, j: (j - i) * slopes[0] > -2,
    }
    return jax.grad(
      lambda *x: jnp.sin(form(*x, bias_params=slopes, **settings)[0]).sum(),
      (0, 1, 2),
    )(q, k, v)

  right = jax.jit(gradient)(q, k, v)
  split = [x.reshape(4, 2, *x.shape[1:]) for x in (q, k, v)]
  found = jax.jit(jax.vmap(gradient))(*split)
  found = [x.reshape(8, *x.shape[2:]) for x in found]
  assert_gradients_close(found, list(right), 1e-12)
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  sharded = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
  assert_gradients_close(jax.jit(sharded)(q, k, v), right, 1e-12)


def test_devices_may_share_the_slopes_of_a_bias(x64):
  """Fails if their gradient is not summed over devices, or sums do not meet."""
  inputs, _, _ = make_inputs((8, 6, 6, 2, 2, 3, 3))
  q, slopes = jnp.asarray(inputs["q"]), jnp.array([0.5, 0.25])
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec, no_axis = (
    jax.sharding.PartitionSpec("data"),
    jax.sharding.PartitionSpec(),
  )

  def gradients(q, slopes, **settings):
    def by_params(slopes):
      y, _ = in_blocks(4, 4)(
        *(q, q, q),
        bias_fn=lambda slopes, i, j: slopes[:, None, None] * (j - i),
        bias_params=slopes,
        **settings,
      )
      return jnp.sin(y).sum()

    def by_closure(slopes):
      y, _ = in_blocks(4, 4)(
        *(q, q, q),
        bias_fn=lambda _, i, j: slopes[:, None, None] * (j - i),
        **settings,
      )
      return jnp.sin(y).sum()

    return jax.grad(by_params)(slopes), jax.grad(by_closure)(slopes)

  def sharded(gradients):
    return jax.jit(
      jax.shard_map(
        gradients, mesh=mesh, in_specs=(spec, no_axis), out_specs=no_axis
      )
    )

  right = jax.jit(gradients)(q, slopes)
  assert_gradients_close(sharded(gradients)(q, slopes), right, 1e-12)
  with pytest.raises(ValueError, match="must not close over floats that devi"):
    sharded(
      lambda q, slopes: gradients(
        q, slopes, query_offset=jax.lax.axis_index("data"), is_causal=True
      )
    )(q, slopes)


def test_devices_may_drop_other_pairs(x64):
  """Fails if only the keys of dropout differ between devices."""
  inputs, _, _ = make_inputs((1, 6, 6, 2, 2, 3, 3))
  q, k, v = (jnp.asarray(inputs[name]) for name in "qkv")

  def gradient(form, keys):
    settings = {"dropout_keys": keys, "dropout_rate": 0.5}
    return jax.grad(lambda *x: form(*x, **settings)[0].sum(), (0, 1, 2))(
      q, k, v
    )

  keys = jax.random.split(jax.random.key(0), 2)
  mesh = jax.make_mesh(
    (2,),
    ("data",),
    axis_types=(jax.sharding.AxisType.Auto,),
    devices=jax.devices()[:2],
  )
  spec = jax.sharding.PartitionSpec("data")
  forms = DEFINITION, in_blocks(4, 4)
  right, found = (
    jax.jit(
      jax.shard_map(
        lambda keys, form=form: gradient(form, keys),
        mesh=mesh,
        in_specs=spec,
        out_specs=jax.sharding.PartitionSpec(),
      )
    )(keys)
    for form in forms
  )
  assert_gradients_close(found, right, 1e-12)


def test_a_gradient_is_as_exact_as_its_argument():
  """Fails if cotangents of scores are rounded to a narrower dtype of keys."""
  inputs, _, _ = make_inputs((1, 6, 6, 2, 2, 3, 3))
  q, k, v = (jnp.asarray(inputs[name], jnp.float32) for name in "qkv")
  k = k.astype(jnp.bfloat16)

  def gradient(form):
    return jax.jit(jax.grad(lambda q: jnp.sin(form(q, k, v)[0]).sum()))(q)

  right, found = gradient(DEFINITION), gradient(in_blocks(4, 4))
  assert_gradients_close(found, right, 1e-5)
