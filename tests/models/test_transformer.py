"""The Transformer as plain functions: its cache, norms, output and settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Literal

from slim.certify.gradient_error import largest_error
from slim.models import create_model
from slim.models.positions import rotate
from slim.training.gradients import make_value_and_grad
from tests.helpers import assert_gradients_close
from tests.models.equations import equations_of
from tests.models.small import (
  KEYS,
  SIZES,
  apply_of,
  batch_of,
  create,
  gradient_of,
  params_of,
  tokens_of,
)

T = 11
# Of the models here, where nothing else is said.
DEFAULTS = SIZES | {
  "attention": "chunked_softmax",
  "positions": "rotary",
  "norm": "pre",
}


def logits_of(model, params, tokens):
  """The logits of whole sequences."""
  return np.asarray(apply_of(model)(params, tokens, None)[0])


@pytest.mark.slow
@pytest.mark.parametrize("tied_output", [False, True])
@pytest.mark.parametrize("method", ["full", "remat"])
def test_blocks_train_as_the_whole(x64, method, tied_output):
  """Two names of one model would learn different things."""

  def gradient(attention, method):
    settings = {"attention": attention, "tied_output": tied_output}
    model = create(**DEFAULTS | settings)
    return gradient_of(model, method=method)(params_of(model), batch_of(T))

  assert_gradients_close(
    gradient("chunked_softmax", method), gradient("softmax", "full"), 1e-12
  )


def test_qk_norm_takes_the_length_of_queries_and_keys(x64):
  """Scores would grow with the weights as if it were not set."""
  model = create(**DEFAULTS | {"qk_norm": True})
  params = params_of(model)
  right = logits_of(model, params, tokens_of(2, T))
  attention = params["layer_0"]["attention"]
  for name in ("q", "k"):
    attention[name] = jax.tree.map(lambda x: 1e3 * x, attention[name])
  found = logits_of(model, params, tokens_of(2, T))
  np.testing.assert_allclose(found, right, rtol=1e-3, atol=1e-3)


def test_bfloat16_computes_the_same_but_for_rounding():
  """Sums, logits or positions would be rounded, too."""
  tokens = tokens_of(2, T)
  wide, narrow = (
    create(**DEFAULTS | {"dtype": dtype}) for dtype in ("float32", "bfloat16")
  )
  params = params_of(wide)
  right = logits_of(wide, params, tokens)
  start = narrow.init_state(2, max_tokens=T)
  found, state = apply_of(narrow)(params, tokens, start)
  assert found.dtype == jnp.float32
  assert state.layers[0].k.dtype == jnp.bfloat16
  # Eight bits are good to 4e-3, and a layer of them to some times that.
  assert 1e-4 < largest_error(found, right) < 3e-2


@pytest.mark.parametrize("output_projection", [False, True])
def test_an_output_projection_is_there_if_asked_for(output_projection):
  """A model of the paper's size would have more weights than the paper's."""
  model = create(
    **DEFAULTS | {"output_projection": output_projection, "dtype": "float32"}
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert ("out" in params["layer_0"]["attention"]) == output_projection


def test_a_tied_output_is_the_table():
  """It would have a matrix of its own, or none."""
  model = create_model(**DEFAULTS, tied_output=True, final_norm=True)
  params = params_of(model)
  assert params["logits"].keys() == {"bias"}
  # The last norm then returns its bias, whatever the tokens are.
  params["final_norm"]["scale"] = jnp.zeros(SIZES["width"])
  x, table, bias = (
    np.asarray(params[module][name])
    for module, name in (
      ("final_norm", "bias"),
      ("embedding", "table"),
      ("logits", "bias"),
    )
  )
  logits = logits_of(model, params, tokens_of(1, T))
  right = np.broadcast_to(table @ x + bias, logits.shape)
  np.testing.assert_allclose(logits, right, rtol=1e-5, atol=1e-5)


def test_rotated_products_know_distances_only(x64):
  """A query would see a key otherwise further on in the text."""
  x = np.random.default_rng(0).normal(size=(2, 1, 1, 2, 8))
  turn = jax.jit(rotate)

  def rotated(which, position):
    return np.asarray(turn(x[which], jnp.array([position])))

  def product(i, j):
    return (rotated(0, i) * rotated(1, j)).sum(-1)

  np.testing.assert_allclose(product(7, 3), product(104, 100), rtol=1e-6)
  assert (np.abs(product(7, 3) - product(7, 4)) > 1e-3).all()
  lengths = (np.linalg.norm(a) for a in (rotated(0, 9), x[0]))
  np.testing.assert_allclose(*lengths, rtol=1e-6)


def test_a_growing_state_is_never_stored():
  """It would be kept, whole, for every chunk."""
  model = create(**DEFAULTS | {"dtype": "float32"})
  with pytest.raises(ValueError, match="policy must be 'rewind' for a model"):
    gradient_of(model, method="slim", chunk_size=4, policy="store")


def test_more_tokens_than_there_is_room_for_are_refused():
  """They would be written over others."""
  model = create(**DEFAULTS | {"dtype": "float32"})
  params = jax.eval_shape(model.init, jax.random.key(0))
  message = r"cache.k must have shape \[1, S >= 11, .*\], got \[1, 5, "
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      model.apply, params, tokens_of(1, T), model.init_state(1, max_tokens=5)
    )


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"attention": "full"}, "attention must be one of"),
    ({"attention": "linear;lsh"}, "attention must be one of"),
    (
      {"attention": "local", "window": None},
      "window must be of type int, got None",
    ),
    ({"attention": "local", "window": 0}, "window must be > 0, got 0"),
    ({"attention": "lsh"}, "frozen_key must be a PRNG key"),
    (
      {"attention": "softmax,lsh", "num_layers": 2},
      "frozen_key must be a PRNG key",
    ),
    ({"attention": "lsh", "bucket_size": 0}, "bucket_size must be > 0"),
    ({"attention": "lsh", "num_hashes": 0}, "num_hashes must be > 0"),
    ({"hash_rounds": "all"}, "hash_rounds must be one of .* got 'all'"),
    (
      {"attention": "lsh", "frozen_key": KEYS[0], "heads_at_once": 3},
      "heads_at_once must divide num_heads=2, got 3",
    ),
    ({"reversible": True, "norm": "post"}, "norm must be 'pre' or 'output'"),
    (
      {"attention": "lsh", "heads_at_once": 0},
      "heads_at_once must be > 0",
    ),
    ({"mlp_chunk_size": 0}, "mlp_chunk_size must be > 0"),
    ({"positions": "relative"}, "positions must be one of"),
    ({"width": 12, "num_heads": 4}, "positions 'rotary' needs heads of even"),
    ({"attention": "linear"}, "positions 'rotary' is not for linear"),
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
    create_model(**DEFAULTS | settings)
  assert "\n" not in str(error.value)


def compares_to_a_number(equation):
  """Tells whether an equation is x < n, for a counter x and a constant n."""
  if equation.primitive.name != "lt":
    return False
  x, stop = equation.invars
  is_counter = not isinstance(x, Literal) and isinstance(stop, Literal)
  return is_counter and stop.aval.dtype == jnp.int32


@pytest.mark.parametrize("attention", ["chunked_softmax", "local"])
def test_loops_of_training_have_a_known_length(attention):
  """Fails if the host of a GPU waits at each turn of a loop."""
  model = create_model(**DEFAULTS | {"attention": attention, "window": 9})
  params = jax.eval_shape(model.init, jax.random.key(0))
  gradient = make_value_and_grad(model, method="full")
  equations = equations_of(gradient, params, batch_of(1100))
  loops = [x for x in equations if x.primitive.name == "while"]
  assert loops
  for loop in loops:
    assert any(map(compares_to_a_number, loop.params["cond_jaxpr"].eqns))
