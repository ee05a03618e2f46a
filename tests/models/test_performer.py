"""The model as plain functions: the past, the cut, and the way back."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models import create_model
from tests.helpers import assert_gradients_close

SIZES = {
  "vocab_size": 71,
  "width": 16,
  "num_layers": 2,
  "num_heads": 2,
  "mlp_width": 32,
}
T = 70  # More than a block of attention.
VARIANTS = pytest.mark.parametrize(
  "settings",
  [
    {"feature_map": "square", "norm": "output", "dropout": 0.1},
    {"feature_map": "relu", "norm": "pre", "output_projection": True},
    {"feature_map": "elu_plus_one", "norm": "post"},
    {"feature_map": "favor", "num_features": 20, "qk_norm": True},
  ],
  ids=lambda settings: settings["feature_map"],
)
KEYS = jax.random.split(jax.random.key(5), 2)
# Large programs, compiled in half the time, where all is float64 and run once.
FAST = {"xla_backend_optimization_level": 0}


def create(**settings):
  """A small model and parameters for it."""
  model = create_model(
    **{**SIZES, "feature_key": jax.random.key(7), **settings}
  )
  return model, model.init(jax.random.key(0))


def tokens_of(batch_size, length, seed=0):
  """Tokens [batch_size, length], any."""
  random = np.random.default_rng(seed)
  shape = (batch_size, length)
  return random.integers(0, SIZES["vocab_size"], shape, dtype=np.int32)


def exact_sums(state):
  """The sums of all layers in float64, with their error terms."""
  layers = []
  for sums, _ in state.layers:
    error = sums.error or (0.0, 0.0)
    layers.append(
      [
        np.asarray(a, np.float64) + np.asarray(e, np.float64)
        for a, e in zip(sums[:2], error, strict=False)
      ]
    )
  return layers


@VARIANTS
def test_no_token_sees_a_later_one(x64, settings):
  """The loss would be low for the wrong reason."""
  model, params = create(dtype="float64", **settings)
  # Each position has a token of its own, so a row of the table is a position.
  tokens = jnp.arange(T, dtype=jnp.int32)[None]

  def mixed_logits(table):
    changed = {**params, "embedding": {"table": table}}
    logits, _ = model.apply(changed, tokens, model.init_state(1))
    return logits[0] @ jax.random.normal(
      jax.random.key(1), (SIZES["vocab_size"],)
    )

  # [T, vocab_size, D / 2]: of the logits at t by the embedding at s.
  jacobian_of = jax.jit(jax.jacrev(mixed_logits), compiler_options=FAST)
  jacobian = jacobian_of(params["embedding"]["table"])
  seen = np.abs(jacobian[:, :T]).max(-1) > 0
  np.testing.assert_array_equal(seen, np.tri(T, dtype=bool))


@VARIANTS
@pytest.mark.parametrize("sizes", [[1] * T, [5, 64, 1]], ids=["ones", "cut"])
def test_pieces_are_the_whole(x64, settings, sizes):
  """Generation and long evaluation would be those of another model."""
  model, params = create(dtype="float64", **settings)
  apply, tokens = jax.jit(model.apply), tokens_of(2, T)
  start = model.init_state(2)
  expected, expected_end = apply(params, tokens, start, KEYS)
  state, logits = start, []
  for piece in np.split(tokens, np.cumsum(sizes)[:-1], axis=1):
    piece_logits, state = apply(params, piece, state, KEYS)
    logits.append(piece_logits)
  found = jnp.concatenate(logits, 1)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)
  assert_gradients_close(state, expected_end, 1e-12)


@VARIANTS
def test_rewind_is_apply_seen_from_its_end(x64, settings):
  """The backward walk would differentiate another function."""
  model, params = create(dtype="float64", **settings)
  earlier, tokens = tokens_of(2, 9), tokens_of(2, T, seed=1)
  start = model.init_state(2, compensated=True)
  _, before = jax.jit(model.apply)(params, earlier, start, KEYS)
  random = np.random.default_rng(2)

  def apply(params, state):
    logits, after = model.apply(params, tokens, state, KEYS)
    return (logits, after), state

  def rewind(params, state_after):
    before, logits, after = model.rewind(params, tokens, state_after, KEYS)
    return (logits, after), before

  @partial(jax.jit, static_argnums=0, compiler_options=FAST)
  def value_and_cotangents(fn, params, state, ct):
    outputs, vjp, before = jax.vjp(fn, params, state, has_aux=True)
    return outputs, before, vjp(ct)

  outputs, _ = apply(params, before)
  ct = jax.tree.map(
    lambda x: (
      random.normal(size=x.shape)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else np.zeros(x.shape, jax.dtypes.float0)
    ),
    outputs,
  )
  right = value_and_cotangents(apply, params, before, ct)
  found = value_and_cotangents(rewind, params, outputs[1], ct)
  assert found[1].position == before.position == 9
  for a, b in zip(exact_sums(found[1]), exact_sums(before), strict=True):
    assert_gradients_close(a, b, 1e-14)
  assert_gradients_close(found[0][0], right[0][0], 1e-12)
  for a, b in zip(*(exact_sums(x[0][1]) for x in (found, right)), strict=True):
    assert_gradients_close(a, b, 1e-14)
  (params_ct, state_ct), (right_params_ct, right_state_ct) = found[2], right[2]
  assert_gradients_close(params_ct, right_params_ct, 1e-11)
  for a, b in zip(state_ct.layers, right_state_ct.layers, strict=True):
    assert_gradients_close(a.sums[:2], b.sums[:2], 1e-11)


def test_compensated_states_do_not_drift():
  """Long sequences would have the gradients of other states."""
  model, params = create()
  apply, rewind = jax.jit(model.apply), jax.jit(model.rewind)
  first, *pieces = np.split(tokens_of(1, 201 * 8), 201, axis=1)
  _, start = apply(params, first, model.init_state(1, compensated=True))
  state = start
  for piece in pieces:
    _, state = apply(params, piece, state)
  for piece in reversed(pieces):
    state, _, _ = rewind(params, piece, state)
  assert state.position == start.position
  for a, b in zip(exact_sums(state), exact_sums(start), strict=True):
    assert_gradients_close(a, b, 1e-10)


def test_init_returns_a_plain_dict():
  """Checkpoints and optimisers would meet a type of Flax's own."""

  def check(tree):
    assert type(tree) is dict
    for value in tree.values():
      if not isinstance(value, jax.Array):
        check(value)

  _, params = create()
  check(params)


def test_same_input_gives_the_same_bits():
  """A resumed run would be another run."""
  model, params = create(dropout=0.1)
  _, again = create(dropout=0.1)
  apply, tokens = jax.jit(model.apply), tokens_of(2, T)
  one = apply(params, tokens, model.init_state(2), KEYS)
  two = apply(again, tokens, model.init_state(2), KEYS)
  jax.tree.map(np.testing.assert_array_equal, one, two)


def favor_logits(**settings):
  """The logits of random features; the parameters are the same for all."""
  model, params = create(feature_map="favor", **settings)
  logits, _ = model.apply(params, tokens_of(1, T), model.init_state(1))
  return np.asarray(logits), params


def test_the_feature_key_decides_the_features():
  """An evaluation would be of another model than was trained."""
  logits, params = favor_logits()
  np.testing.assert_array_equal(logits, favor_logits()[0])
  for other in (
    {"feature_key": jax.random.key(8)},
    {"orthogonal_features": False},
    {"num_features": 9},
  ):
    other_logits, other_params = favor_logits(**other)
    jax.tree.map(np.testing.assert_array_equal, params, other_params)
    assert np.abs(other_logits - logits).max() > 1e-3


def test_random_features_are_no_parameters():
  """They would be trained, and no longer be an estimate of anything."""
  _, params = favor_logits()
  _, squares = create(feature_map="square")
  assert jax.tree.structure(params) == jax.tree.structure(squares)


def test_layers_have_features_of_their_own():
  """The errors of the estimate would be the same in each layer, and add up."""
  model, params = create(feature_map="favor")
  params["layer_1"] = params["layer_0"]
  # The first layer then leaves its input as it is, so the layers see the same.
  params["layer_0"] = params["layer_0"] | {
    name: jax.tree.map(jnp.zeros_like, params["layer_0"][name])
    for name in ("attention_norm", "mlp_norm")
  }
  _, state = model.apply(params, tokens_of(1, 5), model.init_state(1))
  first, second = (layer.sums.k for layer in state.layers)
  assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("qk_norm", [False, True])
def test_favor_is_undone_with_qk_norm_only(qk_norm):
  """Keys of any length leave early sums that rounding has wiped out."""
  model, _ = create(feature_map="favor", qk_norm=qk_norm)
  assert (model.rewind is not None) == qk_norm


def test_bfloat16_keeps_what_must_be_wide():
  """Parameters, sums or logits would be rounded to 8 bits."""
  model, params = create(dtype="bfloat16")
  logits, state = jax.eval_shape(
    model.apply, params, tokens_of(2, T), model.init_state(2)
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
      "feature_key must be a PRNG key for feature_map='favor'",
      "None",
    ),
    (
      {
        "feature_map": "favor",
        "feature_key": jax.random.key(0),
        "num_features": 0,
      },
      "num_features must be a positive integer",
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
