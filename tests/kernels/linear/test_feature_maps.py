"""Feature maps: values, derivatives, and what attention relies on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import FEATURE_MAPS, elu_plus_one, relu

# Both sides of the kinks at 0, and large values.
X = np.array([-90.0, -20.0, -1.5, -1e-4, 1e-4, 0.3, 2.0, 50.0])
VALUES = {
  "relu": np.maximum(X, 0) + 1e-3,
  "elu_plus_one": np.where(X > 0, X + 1, np.exp(X)),
  "square": X * X,
}
DERIVATIVES = {
  "relu": np.where(X > 0, 1.0, 0.0),
  "elu_plus_one": np.where(X > 0, 1.0, np.exp(X)),
  "square": 2 * X,
}


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_values(x64, name):
  """Fails if a map is not the function that its docstring states."""
  y = FEATURE_MAPS[name](jnp.asarray(X))
  np.testing.assert_allclose(y, VALUES[name], rtol=1e-15)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_derivatives(x64, name):
  """Fails if a gradient is wrong, or NaN because the other branch overflows."""
  f = FEATURE_MAPS[name]
  if name == "elu_plus_one":  # The only map that is smooth where pieces meet.
    assert jax.jit(jax.grad(f))(0.0) == 1
  x = np.append(X, 1e4)
  right = np.append(DERIVATIVES[name], 2e4 if name == "square" else 1.0)
  found = jax.jit(jax.vmap(jax.grad(f)))(x)
  np.testing.assert_allclose(found, right, rtol=1e-15)


@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_features_are_never_negative(name):
  """Fails if the normaliser can cancel, so that attention divides by ~0."""
  x = np.append(np.linspace(-200.0, 200.0, 4001), 0.0).astype(np.float32)
  assert np.asarray(jax.jit(FEATURE_MAPS[name])(x)).min() >= 0


def test_relu_is_positive():
  """Fails if exact zeros make the forward and rewound pass divide 0 by 0."""
  assert relu(jnp.array([-3.0, 0.0])).tolist() == [np.float32(1e-3)] * 2


def test_elu_plus_one_keeps_small_values():
  """Fails if it computes exp(x) - 1 first, which loses values below 6e-8."""
  x = np.linspace(-80, -5, 76, dtype=np.float32)
  y = elu_plus_one(jnp.asarray(x))
  np.testing.assert_allclose(y, np.exp(x, dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_tokens_are_mapped_alone_and_keep_their_dtype(name, dtype):
  """Fails if the value depends on the chunks, or if the dtype changes."""
  f = FEATURE_MAPS[name]
  x = jax.random.normal(jax.random.key(0), (2, 5, 1, 3), dtype)

  @jax.jit
  def whole_and_alone(x):
    alone = [f(x[:, t : t + 1]) for t in range(x.shape[1])]
    return f(x), jnp.concatenate(alone, 1)

  whole, alone = whole_and_alone(x)
  assert whole.dtype == dtype
  assert whole.shape == x.shape
  np.testing.assert_array_equal(whole, alone)
