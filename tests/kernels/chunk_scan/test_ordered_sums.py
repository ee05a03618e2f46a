"""Gradients are added in turn, and states are packed for TPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels.chunk_scan._ordered_sums import add_in_turn
from slim.kernels.chunk_scan._packing import pack, unpack

layer = jax.jit(lambda x: (x * 2, x + 1, x.sum()))  # Gradient, and the rest.


def backward(x):
  """Returns the gradients of three layers, and what is left."""
  gradients = []
  for _ in range(3):
    gradient, x, _ = layer(x)
    gradients.append(gradient)
  # The same variable twice, a literal, and one that is used again.
  return [*gradients, gradients[0], 1.0, x], {"x": x * gradients[1]}


def test_sums_are_those_of_plain_addition():
  """Fails if a gradient is left out, added twice or added elsewhere."""
  x = jnp.arange(3.0)
  totals = [jnp.float32(10 ** (1 + i)) + x for i in range(6)]
  gradients, rest = backward(x)
  sums, found = jax.jit(lambda: add_in_turn(lambda: backward(x), totals))()
  for total, gradient, found_sum in zip(totals, gradients, sums, strict=True):
    np.testing.assert_array_equal(found_sum, total + gradient)
  np.testing.assert_array_equal(found["x"], rest["x"])


def test_the_next_layer_waits_for_the_sum():
  """Fails if XLA may put off the sums to the end."""
  totals = [jnp.zeros(3)] * 6
  jaxpr = jax.make_jaxpr(lambda x: add_in_turn(lambda: backward(x), totals))(
    jnp.zeros(3)
  ).jaxpr
  calls = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "jit"]
  barriers = [
    eqn for eqn in jaxpr.eqns if eqn.primitive.name == "optimization_barrier"
  ]
  assert len(calls) == 3
  # The gradient of the first layer is listed twice, so it is added at the end.
  sums = [
    x for eqn in jaxpr.eqns if eqn.primitive.name == "add" for x in eqn.outvars
  ]
  waiting = [b for b in barriers if set(b.invars) & set(sums)]
  assert len(waiting) == 2
  assert set(calls[1].outvars[1:]) & set(waiting[0].invars)
  assert set(calls[2].invars) <= set(waiting[0].outvars)


@pytest.mark.parametrize(
  ("shape", "packed"),
  [
    ((2, 3, 64, 64), (2, 3, 4096)),
    ((2, 3, 64), (2, 192)),
    ((2, 3, 128), (2, 3, 128)),
    ((2, 64), (2, 64)),
    ((), ()),
    ((2, 0, 3), (2, 0)),
    ((0, 3, 4), (0, 12)),
  ],
)
def test_narrow_rows_are_merged(shape, packed):
  """Fails if a state is padded, or comes back in another order."""

  @jax.jit
  def there_and_back(x):
    found = pack({"x": x, "none": None})
    return found, unpack(found, {"x": jax.typeof(x), "none": None})

  x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  found, back = there_and_back(x)
  assert found["x"].shape == packed
  np.testing.assert_array_equal(back["x"], x)


def test_keys_are_packed():
  """Fails if a state may hold no PRNG keys."""
  keys = jax.random.split(jax.random.key(0), (2, 3, 4))
  assert (unpack(pack(keys), keys) == keys).all()
