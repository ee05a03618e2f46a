"""What each token sees of the past, whole and in pieces."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import assert_gradients_close, each_value
from tests.models.small import (
  KEYS,
  SIZES,
  apply_of,
  create,
  params_of,
  tokens_of,
)

T = 70  # More than a block of linear attention.
LINEAR = {
  "square": {"norm": "output", "num_layers": 2, "dropout": 0.1},
  "relu": {"norm": "pre", "output_projection": True},
  "elu_plus_one": {"norm": "post"},
  "favor": {"num_features": 20, "qk_norm": True},
}
WITH_A_STATE = [
  *({"feature_map": name} | x for name, x in LINEAR.items()),
  {
    "attention": "chunked_softmax",
    "positions": "rotary",
    "norm": "pre",
    "final_norm": True,
    "qk_norm": True,
    "output_projection": True,
  },
  {
    "attention": "softmax",
    "positions": "learned",
    "norm": "post",
    "dropout": 0.3,
  },
  {"attention": "softmax,local", "positions": "axial", "num_layers": 2},
  {"attention": "local", "positions": "rotary"},
]
# One bucket, as others end elsewhere when a later token falls into one.
ONE_BUCKET = {"attention": "lsh", "positions": "axial", "bucket_size": T}


def name_of(settings):
  """Names a model in the identifier of a case."""
  return settings.get("attention") or settings["feature_map"]


def changed_one_by_one():
  """Tokens [T + 1, T]: in row s token s is another one; in row T, none is."""
  tokens = np.repeat(tokens_of(1, T), T + 1, 0)
  places = np.arange(T)
  tokens[places, places] = (tokens[places, places] + 1) % SIZES["vocab_size"]
  return tokens


@functools.cache
def whole(**settings):
  """The logits of `changed_one_by_one`, all with one key, and the state."""
  model = create(**settings)
  tokens = changed_one_by_one()
  keys = jnp.broadcast_to(KEYS[0], len(tokens))
  start = model.init_state(len(tokens))
  return apply_of(model)(params_of(model), tokens, start, keys)


@pytest.mark.parametrize("settings", [*WITH_A_STATE, ONE_BUCKET], ids=name_of)
def test_a_token_is_seen_by_those_after_it(x64, settings):
  """It would be trained to copy its target, or a window would be wider."""
  logits, _ = whole(**settings)
  change = np.abs(logits[:T] - logits[T:]).max(-1)  # Of t by s, at [s, t].
  reach = SIZES["window"] if settings.get("attention") == "local" else T
  sees = np.tri(T, dtype=bool) & ~np.tri(T, k=-reach, dtype=bool)
  np.testing.assert_array_equal(change > 1e-9, sees.T)


def assert_pieces_are_the_whole(settings, sizes):
  """Compares the logits of pieces of these sizes, and the state after them."""
  model = create(**settings)
  tokens = changed_one_by_one()
  keys = jnp.broadcast_to(KEYS[0], len(tokens))
  # With room for more than there is, which changes nothing.
  state = model.init_state(len(tokens), max_tokens=T + 3)
  pieces = []
  for piece in np.split(tokens, np.cumsum(sizes)[:-1], axis=1):
    logits, state = apply_of(model)(params_of(model), piece, state, keys)
    pieces.append(logits)
  right, end = whole(**settings)
  assert_gradients_close(np.concatenate(pieces, 1), right, 1e-12)
  assert state.position == T
  if end is not None:
    assert_gradients_close(state, end, 1e-12)


@pytest.mark.parametrize("settings", WITH_A_STATE, ids=name_of)
def test_pieces_are_the_whole(x64, settings):
  """Generation and long evaluation would be those of another model."""
  assert_pieces_are_the_whole(settings, [1] * 4 + [66])


@pytest.mark.parametrize(
  "settings",
  [
    WITH_A_STATE[0],
    *(pytest.param(x, marks=pytest.mark.slow) for x in WITH_A_STATE[1:]),
  ],
  ids=name_of,
)
def test_pieces_are_the_whole_in_float32(settings):
  """Fails if a state is kept in fewer digits than it is computed."""
  model = create(**settings | {"dtype": "float32"})
  params, tokens = params_of(model), tokens_of(1, T)
  state = model.init_state(1, max_tokens=T)
  whole, _ = apply_of(model)(params, tokens, state)
  pieces = []
  for piece in np.split(tokens, [1, 2, 3], axis=1):
    logits, state = apply_of(model)(params, piece, state)
    pieces.append(logits)
  assert_gradients_close(np.concatenate(pieces, 1), whole, 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[1] * T, [5, 64, 1]], ids=["ones", "cut"])
@pytest.mark.parametrize("settings", WITH_A_STATE, ids=name_of)
def test_any_pieces_are_the_whole(x64, settings, sizes):
  """As above, from token to token and across the blocks of a kernel."""
  assert_pieces_are_the_whole(settings, sizes)


@pytest.mark.slow
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
def test_pieces_of_a_transformer_are_the_whole(x64, case):
  """As above, by each setting."""
  assert_pieces_are_the_whole(case | {"num_layers": 2}, [5, 65])
