"""The Transformer as plain functions: its cache, its cut, its attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.errors import largest_error
from slim.gradients import make_value_and_grad
from slim.models import create_model
from slim.models.positions import rotate
from slim.types import Batch
from tests.helpers import assert_gradients_close, each_value, init_params

SIZES = {
  "vocab_size": 31,
  "width": 16,
  "num_layers": 2,
  "num_heads": 2,
  "mlp_width": 32,
}
T = 11
KEYS = jax.random.split(jax.random.key(5), 2)

# Models that differ in their attention have equal programs for `init`.
pytestmark = pytest.mark.usefixtures("compilation_cache")


def create(**settings):
  """A small model in float64, and parameters for it."""
  model = create_model(
    **SIZES
    | {
      "attention": "chunked_softmax",
      "positions": "rotary",
      "norm": "pre",
      "final_norm": True,
      "max_positions": T,
      "dtype": "float64",
    }
    | settings
  )
  return model, init_params(model)


def tokens_of(batch_size, length=T):
  """Tokens [batch_size, length], any."""
  random = np.random.default_rng(0)
  shape = (batch_size, length)
  return random.integers(0, SIZES["vocab_size"], shape, dtype=np.int32)


def in_pieces(model, params, tokens, cuts, max_tokens=T, keys=None):
  """The logits of all pieces, and the last state."""
  state = model.init_state(len(tokens), max_tokens=max_tokens)
  apply = jax.jit(model.apply)
  logits = []
  for piece in np.split(tokens, cuts, 1):
    found, state = apply(params, piece, state, keys)
    logits.append(found)
  return jnp.concatenate(logits, 1), state


@pytest.mark.parametrize(
  "case",
  each_value(
    positions=["rotary", "learned", "sinusoidal", "concatenated"],
    attention=["softmax", "chunked_softmax"],
    norm=["pre", "post", "output"],
    qk_norm=[False, True],
    dropout=[0.0, 0.3],
  ),
)
def test_token_by_token_is_the_whole(x64, case):
  """What it generates would not be what it was trained to."""
  model, params = create(**case, output_projection=case["qk_norm"])
  tokens = tokens_of(2)
  keys = KEYS if case["dropout"] else None
  whole = in_pieces(model, params, tokens, [], keys=keys)
  # With room for more than there is, which changes nothing.
  found = in_pieces(
    model, params, tokens, range(4, T), max_tokens=20, keys=keys
  )
  state = jax.tree.map(lambda x: x[:, :T] if x.ndim else x, found[1])
  assert_gradients_close((found[0], state), whole, 1e-12)


@pytest.mark.parametrize("tied_output", [False, True])
@pytest.mark.parametrize("method", ["full", "remat"])
def test_blocks_train_as_the_whole(x64, method, tied_output):
  """Two names of one model would learn different things."""
  tokens = tokens_of(2, T + 1)
  batch = Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones((2, T)))

  def gradient(attention, method):
    model, params = create(attention=attention, tied_output=tied_output)
    run = jax.jit(make_value_and_grad(model, method=method))
    return run(params, batch)

  assert_gradients_close(
    gradient("chunked_softmax", method), gradient("softmax", "full"), 1e-12
  )


def test_qk_norm_takes_the_length_of_queries_and_keys(x64):
  """Scores would grow with the weights as if it were not set."""
  model, params = create(qk_norm=True)
  right, _ = in_pieces(model, params, tokens_of(2), [])
  attention = params["layer_0"]["attention"]
  for name in ("q", "k"):
    attention[name] = jax.tree.map(lambda x: 1e3 * x, attention[name])
  found, _ = in_pieces(model, params, tokens_of(2), [])
  np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3)


def test_bfloat16_computes_the_same_but_for_rounding():
  """Sums, logits or positions would be rounded, too."""
  tokens = tokens_of(2)
  wide, params = create(dtype="float32")
  narrow, _ = create(dtype="bfloat16")
  right, _ = in_pieces(wide, params, tokens, [])
  found, state = in_pieces(narrow, params, tokens, [4])
  assert found.dtype == jnp.float32
  assert state.layers[0].k.dtype == jnp.bfloat16
  # Eight bits are good to 4e-3, and a few layers of them to some times that.
  assert 1e-4 < largest_error(found, right) < 3e-2


@pytest.mark.parametrize("output_projection", [False, True])
def test_an_output_projection_is_there_if_asked_for(x64, output_projection):
  """A model of the paper's size would have more weights than the paper's."""
  _, params = create(output_projection=output_projection)
  assert ("out" in params["layer_0"]["attention"]) == output_projection


def test_no_token_sees_a_later_one(x64):
  """It would be trained to copy its target."""
  model, params = create()

  one, _ = in_pieces(model, params, tokens_of(1), [])
  tokens = tokens_of(1)
  tokens[:, 6:] = (tokens[:, 6:] + 1) % SIZES["vocab_size"]
  two, _ = in_pieces(model, params, tokens, [])
  np.testing.assert_allclose(one[:, :6], two[:, :6], rtol=1e-12)
  assert (jnp.abs(one - two)[:, 6:].max(-1) > 1e-6).all()


def test_a_tied_output_is_the_table():
  """It would have a matrix of its own, or none."""
  model, params = create(tied_output=True, dtype="float32")
  assert params["logits"].keys() == {"bias"}
  zero = params | {"logits": {"bias": params["logits"]["bias"] + 1.0}}
  logits, _ = in_pieces(model, zero, tokens_of(2), [])
  # As large as those of a matrix U(±1/√D) of their own.
  assert 0.3 < np.std(logits) < 3


def test_rotated_products_know_distances_only(x64):
  """A query would see a key otherwise further on in the text."""
  x = np.random.default_rng(0).normal(size=(2, 1, 1, 2, 8))
  q, k = (jnp.asarray(a) for a in x)

  def product(i, j):
    rotated = rotate(q, jnp.array([i])), rotate(k, jnp.array([j]))
    return (rotated[0] * rotated[1]).sum(-1)

  np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-6)
  assert (jnp.abs(product(7, 3) - product(7, 4)) > 1e-3).all()
  np.testing.assert_allclose(
    jnp.linalg.norm(rotate(q, jnp.array([9]))), jnp.linalg.norm(q), rtol=1e-6
  )


def test_learned_positions_end():
  """Further ones would be the last one's, without a word."""
  model, params = create(positions="learned", dtype="float32")
  for length, is_right in ((T, True), (T + 1, False)):
    logits, _ = in_pieces(model, params, tokens_of(1, length), [], length)
    assert np.isfinite(logits).all() == is_right


def test_a_growing_state_is_refused_by_slim():
  """It would be kept, whole, for every chunk."""
  model, _ = create(dtype="float32")
  with pytest.raises(ValueError, match="'full' or 'remat' for a model that"):
    make_value_and_grad(model, method="slim", chunk_size=4, policy="store")


def test_more_tokens_than_there_is_room_for_are_refused():
  """They would be written over others."""
  model, params = create(dtype="float32")
  message = "state must have room for the 11 tokens given, got one for 5"
  with pytest.raises(ValueError, match=message):
    in_pieces(model, params, tokens_of(1), [], max_tokens=5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"attention": "full"}, "attention must be 'linear' or some of"),
    ({"attention": "linear,lsh"}, "attention must be 'linear' or some of"),
    ({"attention": "local"}, "window must be a positive integer, got None"),
    ({"attention": "local", "window": 0}, "window must be a positive integer"),
    ({"attention": "lsh"}, "constant_key must be a PRNG key"),
    ({"attention": "softmax,lsh"}, "constant_key must be a PRNG key"),
    ({"attention": "lsh", "bucket_size": 0}, "bucket_size must be a positive"),
    ({"attention": "lsh", "num_hashes": 0}, "num_hashes must be a positive"),
    ({"hash_rounds": "all"}, "hash_rounds must be one of .* got 'all'"),
    (
      {"attention": "lsh", "constant_key": KEYS[0], "heads_at_once": 3},
      "heads_at_once must divide num_heads=2, got 3",
    ),
    ({"reversible": True, "norm": "post"}, "norm must be 'pre' or 'output'"),
    (
      {"attention": "lsh", "heads_at_once": 0},
      "heads_at_once must be a positive integer",
    ),
    ({"mlp_chunk_size": 0}, "mlp_chunk_size must be a positive integer"),
    ({"positions": "relative"}, "positions must be one of"),
    ({"attention": "linear"}, "positions must be another than 'rotary'"),
    (
      {"positions": "concatenated", "tied_output": True},
      "tied_output must be False for positions='concatenated'",
    ),
    (
      {"positions": "learned", "max_positions": None},
      "max_positions must be a positive integer",
    ),
    (
      {"positions": "axial", "max_positions": 0},
      "max_positions must be a positive integer",
    ),
    ({"num_features": 8}, "num_features must be None for"),
  ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
  """The error would come from a shape deep inside, or none."""
  with pytest.raises(ValueError, match=message) as error:
    create(**{"dtype": "float32"} | settings)
  assert "\n" not in str(error.value)
