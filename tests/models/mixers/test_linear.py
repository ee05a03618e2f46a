"""The layer of linear attention, where it differs from its kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from slim.certify.gradient_error import relative_errors
from slim.models.mixers.linear import LinearAttention
from slim.models.mixers.mixer import Site
from slim.models.norms import normalize_heads
from tests.helpers import assert_gradients_close
from tests.models.small import params_like

B, T, D, H = 2, 150, 32, 2


def create(dtype, **settings):
  """A layer of squares, if no others are asked for, and its first state."""
  layer = LinearAttention(
    **{
      "width": D,
      "num_heads": H,
      "feature_map": "square",
      "num_features": D // H,
      "orthogonal_features": True,
      "qk_norm": False,
      "output_projection": False,
      "dtype": jnp.dtype(dtype),
      **settings,
    }
  )
  return layer, layer.init_state(B, compensated=False, max_tokens=None)


def site(projection=None):
  """Where a walk forward calls the layer."""
  return Site(jnp.int32(0), projection, None, False, None)


@functools.cache
def jit_gradients(dtype, pieces):
  """The compiled loss of all outputs, of one piece or more; its gradient."""
  layer, start = create(dtype)

  def loss(params, x):
    state, total = start, 0.0
    for piece in jnp.split(x, pieces, axis=1):
      mixed = layer.apply({"params": params}, piece, state, site())
      y, state = mixed.y, mixed.after
      # Not a plain sum, to which what all values share adds a constant.
      total += jnp.sum(jnp.sin(y) * jnp.cos(piece))
    return total

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def value_and_gradients(dtype, params, x, pieces=1):
  """The loss in a precision, and its gradient."""
  cast = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, x))
  return jit_gradients(dtype, pieces)(*cast)


def params_of(layer, x, state, projection):
  """Parameters of a layer, without compiling."""
  shapes = jax.eval_shape(
    lambda key: layer.init(key, x[:, :1], state, site(projection)),
    jax.random.key(0),
  )
  return params_like(shapes)["params"]


def jit_apply(layer, projection):
  """The compiled layer, `apply(params, x, state) -> Mixed`."""
  return jax.jit(
    lambda params, x, state: layer.apply(
      {"params": params}, x, state, site(projection)
    )
  )


def setup(common):
  """Parameters and inputs; all values have `common` in common."""
  x = np.random.default_rng(0).normal(size=(B, T, D))
  layer, state = create("float64")
  params = params_of(layer, x, state, None)
  params["v"]["bias"] += common
  return params, x


def test_what_all_values_share_leaves_no_error(x64):
  """Trained models, whose values do share much, would have noisy queries."""
  params, x = setup(common=30.0)
  exact = value_and_gradients("float64", params, x)[1]
  errors = relative_errors(value_and_gradients("float32", params, x)[1], exact)
  assert max(errors.values()) <= 5e-6


def test_the_origin_does_not_see_the_cut(x64):
  """Each chunk would measure its values from a place of its own."""
  params, x = setup(common=1.0)
  found = value_and_gradients("float64", params, x, pieces=3)
  assert_gradients_close(
    found, value_and_gradients("float64", params, x), 1e-12
  )


@pytest.mark.parametrize("feature_map", ["elu_plus_one", "favor"])
def test_qk_norm_fixes_the_length(x64, feature_map):
  """Keys could grow until the sums that are undone leave nothing of others."""
  layer, state = create("float64", feature_map=feature_map, qk_norm=True)
  random = np.random.default_rng(0)
  x = random.normal(size=(B, T, D))
  projection = random.normal(size=(D // H, D // H))
  params = params_of(layer, x, state, projection)
  apply = jit_apply(layer, projection)
  # So large that the epsilon of the norm does not count.
  for name in ("q", "k"):
    params[name] = jax.tree.map(lambda a: 1e6 * a, params[name])
  right = apply(params, x, state)
  longer = params | {
    name: jax.tree.map(lambda a: 10 * a, params[name]) for name in ("q", "k")
  }
  found = apply(longer, x, state)
  np.testing.assert_allclose(found.y, right.y, rtol=1e-9)
  assert_gradients_close(found.after.sums[:2], right.after.sums[:2], 1e-9)
  # The queries have a scale of their own, which is learned; keys need none.
  assert params["q_norm"]["scale"].shape == (D // H,)
  assert "k_norm" not in params


def test_the_fixed_length_is_that_of_a_unit_score(x64):
  """Scores q · k / √K, and what they exponentiate to, would grow with K."""
  x = np.random.default_rng(0).normal(size=(B, T, H, D))

  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
      return normalize_heads(x, "norm", use_scale=False)

  found = jax.jit(Norm().apply)({}, 1e6 * x)
  np.testing.assert_allclose(
    jnp.linalg.norm(found, axis=-1), D**0.25, rtol=1e-9
  )


@pytest.mark.parametrize("vanishing", ["keys", "value"])
def test_what_vanishes_does_not_move_the_origin(x64, vanishing):
  """Each chunk would measure values from its own first."""
  layer, start = create("float64", feature_map="favor")
  x = np.random.default_rng(0).normal(size=(B, 6, D))
  projection = np.random.default_rng(1).normal(size=(D // H, D // H))
  params = params_of(layer, x, start, projection)
  apply = jit_apply(layer, projection)
  if vanishing == "keys":  # The features of the first 3 tokens' keys are 0.
    x[:, :3] *= 1e4
  else:  # The first value is, so that an origin of 0 is one to be kept.
    x[:, 0] = 0
    params["v"]["bias"] *= 0

  def run(pieces):
    state, ys = start, []
    for piece in np.split(x, pieces, axis=1):
      y, _, state, _ = apply(params, piece, state)
      ys.append(y)
      counts.append(bool(state.sums.k.any()))
    return jnp.concatenate(ys, 1), state

  counts = []
  assert_gradients_close(run(6), run(1), 1e-12)
  assert counts[:4] == [vanishing == "value"] * 3 + [True]


def test_long_queries_still_attend(x64):
  """Their features would all underflow, and the output be the first value."""
  layer, start = create("float64", feature_map="favor")
  x = np.random.default_rng(0).normal(size=(B, 6, D))
  projection = np.random.default_rng(1).normal(size=(D // H, D // H))
  params = params_of(layer, x, start, projection)
  params["q"] = jax.tree.map(lambda a: 1e3 * a, params["q"])
  y = jit_apply(layer, projection)(params, x, start).y
  assert (np.abs(y[:, 1:] - y[:, :1]).max(-1) > 1e-3).all()
