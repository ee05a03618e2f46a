"""The model as plain functions: the past, the cut, and the way back."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.gradients import make_value_and_grad
from slim.models import create_model
from slim.types import Batch
from tests.helpers import assert_gradients_close, init_params

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

# Models that differ in their attention have equal programs for `init`.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def create(**settings):
  """A small model and parameters for it."""
  model = create_model(
    **{**SIZES, "constant_key": jax.random.key(7), **settings}
  )
  return model, init_params(model)


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
  jacobian_of = jax.jit(jax.jacrev(mixed_logits))
  jacobian = jacobian_of(params["embedding"]["table"])
  seen = np.abs(jacobian[:, :T]).max(-1) > 0
  np.testing.assert_array_equal(seen, np.tri(T, dtype=bool))


@VARIANTS
@pytest.mark.parametrize("sizes", [[1] * T, [5, 64, 1]], ids=["ones", "cut"])
def test_pieces_are_the_whole(x64, settings, sizes):
  """Generation and long evaluation would be those of another model."""
  model, params = create(dtype="float64", **settings)
  apply = jax.jit(model.apply)
  tokens = tokens_of(2, T)
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
  apply_once = jax.jit(model.apply)
  _, before = apply_once(params, earlier, start, KEYS)
  random = np.random.default_rng(2)

  def apply(params, state):
    logits, after = model.apply(params, tokens, state, KEYS)
    return (logits, after), state

  def rewind(params, state_after):
    before, logits, after = model.rewind(params, tokens, state_after, KEYS)
    return (logits, after), before

  @partial(jax.jit, static_argnums=0)
  def value_and_cotangents(fn, params, state, ct):
    outputs, vjp, before = jax.vjp(fn, params, state, has_aux=True)
    return outputs, before, vjp(ct)

  shapes, _ = jax.eval_shape(apply, params, before)
  ct = jax.tree.map(
    lambda x: (
      random.normal(size=x.shape)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else np.zeros(x.shape, jax.dtypes.float0)
    ),
    shapes,
  )
  right = value_and_cotangents(apply, params, before, ct)
  found = value_and_cotangents(rewind, params, right[0][1], ct)
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
  apply = jax.jit(model.apply)
  logits, _ = apply(params, tokens_of(1, T), model.init_state(1))
  return np.asarray(logits), params


def test_the_constant_key_decides_the_features():
  """An evaluation would be of another model than was trained."""
  logits, params = favor_logits()
  np.testing.assert_array_equal(logits, favor_logits()[0])
  for other in (
    {"constant_key": jax.random.key(8)},
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
  apply = jax.jit(model.apply)
  _, state = apply(params, tokens_of(1, 5), model.init_state(1))
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


def gradient_of(model, params, length, **how):
  """The loss and the gradient of two sequences."""
  tokens = tokens_of(2, length + 1)
  ones = np.ones((2, length), np.float32)
  batch = Batch(tokens[:, :-1], tokens[:, 1:], ones)
  run = jax.jit(make_value_and_grad(model, **how))
  return run(params, batch, KEYS)


@pytest.mark.slow
@pytest.mark.parametrize(
  "policies",
  [["rewind", "sqrt"], pytest.param(["store"], marks=pytest.mark.full)],
)
def test_slim_of_reversible_layers_is_full(x64, policies):
  """The layers would be undone, or the chunks, as if there were only one."""
  model, params = create(
    reversible=True, num_layers=1, dropout=0.1, dtype="float64"
  )
  right = gradient_of(model, params, 23, method="full")
  for policy in policies:
    found = gradient_of(
      model, params, 23, method="slim", chunk_size=7, policy=policy
    )
    assert_gradients_close(found, right, 1e-10)


@pytest.mark.slow
def test_slim_of_reversible_layers_in_float32(x64):
  """What is undone twice would be right to less than what is undone once."""
  settings = {"reversible": True, "norm": "pre", "qk_norm": True}
  model, params = create(dtype="float64", **settings)
  right = gradient_of(model, params, 23, method="full")
  narrow = create_model(**SIZES, dtype="float32", **settings)
  params = jax.tree.map(lambda x: x.astype("float32"), params)
  found = gradient_of(narrow, params, 23, method="slim", chunk_size=7)
  assert_gradients_close(found, right, 1e-5)


def slim_of_reversible(length, layers):
  """Temporary bytes of such a gradient, and those of a layer's state."""
  sizes = SIZES | {"width": 64, "mlp_width": 128, "num_layers": layers}
  model = create_model(**sizes, reversible=True)
  params = jax.eval_shape(model.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  weights = jax.ShapeDtypeStruct((1, length), jnp.float32)
  run = jax.jit(make_value_and_grad(model, method="slim", chunk_size=128))
  # What LLVM makes of the program does not change what is assigned to it.
  options = {"xla_backend_optimization_level": 0}
  lowered = run.lower(params, Batch(tokens, tokens, weights))
  found = lowered.compile(options).memory_analysis().temp_size_in_bytes
  state = jax.eval_shape(lambda: model.init_state(1, compensated=True))
  return found, sum(4 * x.size for x in jax.tree.leaves(state.layers[0]))


def test_slim_of_reversible_layers_keeps_states_alone():
  """Activations would grow with depth or length, or gradients be kept twice."""
  small, state = slim_of_reversible(512, 2)
  large, _ = slim_of_reversible(4096, 3)
  # Of a chunk there are three sums more; of a layer, its states.
  assert large - small <= 12 * (4096 - 512) / 64 + 6 * state, (small, large)


def test_remat_of_reversible_layers_is_refused():
  """They would be computed three times, to no end."""
  model, params = create(reversible=True, num_layers=1)
  with pytest.raises(ValueError, match="remat must be False for rev") as error:
    gradient_of(model, params, 5, method="remat")
  assert "\n" not in str(error.value)


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
      "constant_key must be a PRNG key",
      "None",
    ),
    (
      {
        "feature_map": "favor",
        "constant_key": jax.random.key(0),
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
