"""Reversible layers have the gradient of plain autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.certify.gradient_error import largest_error
from slim.kernels import reversible, reversible_scan
from tests.helpers import assert_gradients_close

LAYERS, BATCH, WIDTH = 3, 2, 4


def make_inputs(dtype, layers=LAYERS, width=WIDTH):
  """Inputs of layers of two sublayers: weights, states, streams, a gain."""
  random = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(random.normal(size=shape), dtype)

  return {
    "w": normal(layers, 2, width, width) / np.sqrt(width),
    "states": normal(layers, 2, BATCH, width),
    "streams": (normal(BATCH, width), normal(BATCH, width)),
    "gain": normal(),
  }


def make_sublayer(gain):
  """A sublayer with dropout, a state, a decision and a closure."""

  def sublayer(w, x, context, replay):
    state, key = context
    if replay is None:
      replay = (x > 0).astype(jnp.int8)
    kept = jax.random.bernoulli(key, 0.7, x.shape)
    y = jnp.tanh(x @ w) * gain + replay.astype(x.dtype) * state
    return jnp.where(kept, y, 0), state + y, replay

  return sublayer


def keys_of(layers):
  """One PRNG key per layer and sublayer."""
  return jax.random.split(jax.random.key(5), (layers, 2))


def by_autodiff(w, states, streams, gain):
  """The same layers with plain autodiff."""
  sublayer, keys = make_sublayer(gain), keys_of(len(w))
  one, two = streams
  outs = []
  for layer, half in np.ndindex(*w.shape[:2]):
    context = (states[layer, half], keys[layer, half])
    y, out, _ = sublayer(w[layer, half], two, context, None)
    one, two = two, one + y
    outs.append(out)
  return (one, two), outs


def as_list(w, states, streams, gain):
  """The layers as one `reversible` list."""
  keys = keys_of(len(w))
  places = list(np.ndindex(*w.shape[:2]))
  return reversible(
    [make_sublayer(gain)] * len(places),
    [w[place] for place in places],
    streams,
    [(states[place], keys[place]) for place in places],
  )


def as_scan(w, states, streams, gain):
  """The layers as a `reversible_scan`."""
  keys = keys_of(len(w))
  streams, outs = reversible_scan(
    [make_sublayer(gain)] * 2,
    [w[:, half] for half in range(2)],
    streams,
    [(states[:, half], keys[:, half]) for half in range(2)],
  )
  return streams, [outs[half][i] for i in range(len(w)) for half in range(2)]


def value_and_gradients(form, inputs):
  """A loss of all outputs, and its gradients."""
  return _value_and_gradients(inputs, form)


@functools.partial(jax.jit, static_argnames="form")
def _value_and_gradients(inputs, form):
  def loss(inputs):
    (one, two), outs = form(**inputs)
    return (
      jnp.sin(one).sum()
      + jnp.square(two).sum()
      + sum((i + 1) * jnp.cos(out).sum() for i, out in enumerate(outs))
    )

  return jax.value_and_grad(loss)(inputs)


@pytest.mark.parametrize("form", [as_list, as_scan])
def test_gradients_equal_autodiff(x64, form):
  """Fails if a stream, a state, dropout or a closure is mixed up."""
  inputs = make_inputs("float64")
  found, right = (value_and_gradients(x, inputs) for x in (form, by_autodiff))
  assert_gradients_close(found, right, 1e-12)


@pytest.mark.slow
def test_float32_at_12_layers(x64):
  """Fails if the error of undoing grows out of bounds with the depth."""
  wide = make_inputs("float64", layers=12, width=64)
  right = value_and_gradients(by_autodiff, wide)
  narrow = jax.tree.map(lambda x: x.astype("float32"), wide)
  plain = value_and_gradients(by_autodiff, narrow)
  for form in (as_list, as_scan):
    found = value_and_gradients(form, narrow)
    error, allowed = largest_error(found, right), largest_error(plain, right)
    assert error <= 2 * allowed <= 1e-5, (error, allowed)


def test_decisions_are_replayed():
  """Fails if decisions are recomputed from recovered streams: some differ."""
  layers, width = 12, 128
  w = jnp.swapaxes(make_inputs("float32", layers, width)["w"], 0, 1)
  x = jax.random.normal(jax.random.key(0), (64, width))

  def gradient(replayed, apply):
    def sublayer(w, x, context, replay):
      if replay is None or not replayed:
        # Which of two close features is larger, as in a hash.
        replay = (x[:, ::2] > x[:, 1::2]).astype(jnp.int8)
      sign = 2 * jnp.repeat(replay, 2, axis=1).astype(x.dtype) - 1
      return jnp.tanh(x @ w) * sign, (), replay

    def loss(w):
      # Pairs of features that are equal up to rounding.
      near = jnp.repeat(x[:, ::2], 2, axis=1) * (1 + 1e-7 * jnp.sign(x))
      out, _ = apply([sublayer] * 2, [*w], (x, near), [(), ()])
      return sum(jnp.sin(stream).sum() for stream in out)

    return jax.jit(jax.grad(loss))(w)

  def plainly(sublayers, params, streams, contexts):
    def layer(streams, params):
      one, two = streams
      for f, w, context in zip(sublayers, params, contexts, strict=True):
        one, two = two, one + f(w, two, context, None)[0]
      return (one, two), ()

    return jax.lax.scan(layer, streams, params)

  right = gradient(True, plainly)
  kept = largest_error(gradient(True, reversible_scan), right)
  recomputed = largest_error(gradient(False, reversible_scan), right)
  assert kept <= 2e-4
  assert recomputed > 5 * kept, (recomputed, kept)


@pytest.mark.parametrize("form", [as_list, as_scan])
def test_second_derivatives_are_refused(x64, form):
  """Fails if they fail somewhere inside."""
  inputs = make_inputs("float64", layers=1)

  def loss(w):
    return form(**(inputs | {"w": w}))[0][0].sum()

  name = {as_list: "reversible", as_scan: "reversible_scan"}[form]
  message = f"^{name} has first derivatives only; for a second derivative apply"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(jax.grad(lambda w: jax.grad(loss)(w).sum()), inputs["w"])


def test_a_closure_that_devices_share(x64):
  """Fails if its type on a mesh changes between two compilers."""
  mesh = jax.make_mesh(
    (2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2]
  )
  random = np.random.default_rng(0)
  w, x = random.normal(size=(3, 3)), random.normal(size=(4, 3))

  def gradient(layers, w, x):
    def sublayer(params, x, context, replay):
      del params, context, replay
      return jnp.tanh(x @ w), (), jnp.argsort(w[0]).astype(jnp.int32)

    (one, two), _ = layers([sublayer] * 2, [(), ()], (x, x), [(), ()])
    return jnp.sum(one * two)

  def plain(sublayers, params, streams, contexts):
    one, two = streams
    for f, p, c in zip(sublayers, params, contexts, strict=True):
      one, two = two, one + f(p, two, c, None)[0]
    return (one, two), None

  right = jax.grad(lambda w: gradient(plain, w, x))(w)
  sharded = jax.shard_map(
    jax.grad(lambda w, x: gradient(reversible, w, x)),
    mesh=mesh,
    in_specs=(PartitionSpec(), PartitionSpec("data")),
    out_specs=PartitionSpec(),
  )
  assert_gradients_close(jax.jit(sharded)(w, x), right, 1e-12)
