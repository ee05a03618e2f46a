"""The Performer's rewind undoes apply, also with reversible layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.models import create_model
from slim.training.gradients import make_value_and_grad
from slim.types import Batch
from tests.helpers import assert_gradients_close
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


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings",
  [
    {"feature_map": "square", "norm": "output", "dropout": 0.1},
    {"feature_map": "relu", "norm": "pre", "output_projection": True},
    {"feature_map": "elu_plus_one", "norm": "post"},
    {"feature_map": "favor", "num_features": 20, "qk_norm": True},
  ],
  ids=lambda settings: settings["feature_map"],
)
def test_rewind_is_apply_seen_from_its_end(x64, settings):
  """The backward walk would differentiate another function."""
  model = create(num_layers=2, **settings)
  params = params_of(model)
  earlier, tokens = tokens_of(2, 9), tokens_of(2, 70, seed=1)
  start = model.init_state(2, compensated=True)
  _, before = apply_of(model)(params, earlier, start, KEYS)
  random = np.random.default_rng(2)

  def apply(params, state):
    logits, after = model.apply(params, tokens, state, KEYS)
    return (logits, after), state

  def rewind(params, state_after):
    before, logits, after = model.rewind(params, tokens, state_after, KEYS)
    return (logits, after), before

  def value_and_cotangents(fn, params, state, ct):
    outputs, vjp, before = jax.vjp(fn, params, state, has_aux=True)
    return outputs, before, vjp(ct)

  run = jax.jit(value_and_cotangents, static_argnums=0)
  shapes, _ = jax.eval_shape(apply, params, before)
  ct = jax.tree.map(
    lambda x: (
      random.normal(size=x.shape)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else np.zeros(x.shape, jax.dtypes.float0)
    ),
    shapes,
  )
  right = run(apply, params, before, ct)
  found = run(rewind, params, right[0][1], ct)
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
  model = create(dtype="float32")
  params = params_of(model)
  apply, rewind = apply_of(model), jax.jit(model.rewind)
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


@pytest.mark.parametrize("qk_norm", [False, True])
def test_favor_is_undone_with_qk_norm_only(qk_norm):
  """Keys of any length leave early sums that rounding has wiped out."""
  model = create(feature_map="favor", qk_norm=qk_norm, dtype="float32")
  assert not any(model.kept.layers) == qk_norm


@pytest.mark.slow
@pytest.mark.parametrize(
  "policy", ["rewind", "store", pytest.param("sqrt", marks=pytest.mark.full)]
)
def test_slim_of_reversible_layers_is_full(x64, policy):
  """The layers would be undone, or the chunks, as if there were only one."""
  model = create(reversible=True, num_layers=2, dropout=0.1)
  args = params_of(model), batch_of(23), KEYS
  right = gradient_of(model, method="full")(*args)
  slim = gradient_of(model, method="slim", chunk_size=7, policy=policy)
  assert_gradients_close(slim(*args), right, 1e-10)


@pytest.mark.slow
def test_slim_of_reversible_layers_in_float32(x64):
  """What is undone twice would be right to less than what is undone once."""
  settings = {
    "reversible": True,
    "norm": "pre",
    "qk_norm": True,
    "num_layers": 2,
  }
  model = create(**settings)
  params, batch = params_of(model), batch_of(23)
  right = gradient_of(model, method="full")(params, batch)
  narrow = create(dtype="float32", **settings)
  params = jax.tree.map(lambda x: x.astype("float32"), params)
  slim = gradient_of(narrow, method="slim", chunk_size=7)
  assert_gradients_close(slim(params, batch), right, 1e-5)


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


@pytest.mark.slow
def test_slim_of_reversible_layers_keeps_states_alone():
  """Activations would grow with depth or length, or gradients be kept twice."""
  small, state = slim_of_reversible(512, 2)
  large, _ = slim_of_reversible(4096, 3)
  # Of a chunk there are three sums more; of a layer, its states.
  assert large - small <= 12 * (4096 - 512) / 64 + 6 * state, (small, large)


def test_remat_of_reversible_layers_is_refused():
  """They would be computed three times, to no end."""
  model = create(reversible=True, dtype="float32")
  params = jax.eval_shape(model.init, jax.random.key(0))
  with pytest.raises(ValueError, match="remat must be False for rev") as error:
    gradient_of(model, method="remat").trace(params, batch_of(5))
  assert "\n" not in str(error.value)
