"""The Performer as plain functions: parameters, features and settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models import create_model
from tests.helpers import init_params
from tests.models.small import SIZES, apply_of, create, params_of, tokens_of


def test_init_returns_a_plain_dict():
  """Checkpoints and optimisers would meet a type of Flax's own."""

  def check(tree):
    assert type(tree) is dict
    for value in tree.values():
      if not isinstance(value, jax.ShapeDtypeStruct):
        check(value)

  model = create(dtype="float32")
  check(jax.eval_shape(model.init, jax.random.key(0)))


def favor(seed=7, **settings):
  """A model of random features, in float32."""
  return create_model(
    **SIZES,
    feature_map="favor",
    frozen_key=jax.random.key(seed),
    **settings,
  )


def test_the_frozen_key_decides_the_features():
  """An evaluation would be of another model than was trained."""
  models = [
    favor(),
    favor(),
    favor(seed=8),
    favor(orthogonal_features=False),
    favor(num_features=9),
  ]

  @jax.jit
  def logits_of_all(params, tokens):
    return [x.apply(params, tokens, x.init_state(1))[0] for x in models]

  right, same, *others = logits_of_all(params_of(models[0]), tokens_of(1, 5))
  np.testing.assert_array_equal(same, right)
  for other in others:
    assert np.abs(other - right).max() > 1e-3


@pytest.mark.slow
def test_the_frozen_key_decides_nothing_else():
  """Two models could not be compared with the same parameters."""
  one, other = favor(), favor(seed=8, num_features=9)
  jax.tree.map(
    np.testing.assert_array_equal, init_params(one), init_params(other)
  )


def test_random_features_are_no_parameters():
  """They would be trained, and no longer be an estimate of anything."""
  favor, squares = (
    jax.eval_shape(
      create(feature_map=name, dtype="float32").init, jax.random.key(0)
    )
    for name in ("favor", "square")
  )
  assert favor == squares


def test_layers_have_features_of_their_own():
  """The errors of the estimate would be the same in each layer, and add up."""
  model = create(feature_map="favor", num_layers=2, dtype="float32")
  params = params_of(model)
  params["layer_1"] = params["layer_0"]
  # The first layer then leaves its input as it is, so the layers see the same.
  params["layer_0"] = params["layer_0"] | {
    name: jax.tree.map(jnp.zeros_like, params["layer_0"][name])
    for name in ("attention_norm", "mlp_norm")
  }
  _, state = apply_of(model)(params, tokens_of(1, 5), model.init_state(1))
  first, second = (layer.sums.k for layer in state.layers)
  assert np.abs(first - second).max() > 1e-3


def test_bfloat16_keeps_what_must_be_wide():
  """Parameters, sums or logits would be rounded to 8 bits."""
  model = create(dtype="bfloat16")
  params = jax.eval_shape(model.init, jax.random.key(0))
  logits, state = jax.eval_shape(
    model.apply, params, tokens_of(2, 5), model.init_state(2)
  )
  wide = {x.dtype for x in jax.tree.leaves((params, state.layers))}
  assert wide == {jnp.dtype(jnp.float32)}
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
  "settings, expected, found",
  [
    ({"feature_map": "cosine"}, "feature_map must be one of", "'cosine'"),
    ({"norm": "none"}, "norm must be one of", "'none'"),
    ({"num_heads": 3}, "width must be a multiple of num_heads", "num_heads=3"),
    (
      {"width": 14},
      "width must be a multiple of num_heads and of 4",
      "width=14",
    ),
    (
      {"num_features": 8},
      "num_features must be None for feature_map='square'",
      "8",
    ),
    (
      {"feature_map": "favor"},
      "frozen_key must be a PRNG key",
      "None",
    ),
    (
      {
        "feature_map": "favor",
        "frozen_key": jax.random.key(0),
        "num_features": 0,
      },
      "num_features must be > 0",
      "0",
    ),
    ({"dropout": 1.0}, "dropout must be in [0, 1)", "1.0"),
    ({"dropout": -0.1}, "dropout must be in [0, 1)", "-0.1"),
  ],
  ids=str,
)
def test_wrong_settings_are_refused(settings, expected, found):
  """The error would come from deep within, and name an array shape."""
  with pytest.raises(ValueError) as error:
    create_model(**{**SIZES, **settings})
  message = str(error.value)
  assert expected in message
  assert found in message.partition("got ")[2]
  assert "\n" not in message
