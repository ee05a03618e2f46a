"""The gradient in float32 and bfloat16 is as exact as plain autodiff's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim.certify.gradient_error import relative_errors
from slim.kernels import POLICIES
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad
from slim.types import Batch
from tests.helpers import (
  AS_USERS,
  assert_gradients_close,
  each_value,
  init_params,
)
from tests.models.small import batch_of, create, gradient_of


@pytest.mark.parametrize("policy", POLICIES)
def test_sums_that_are_undone_are_compensated(policy):
  """In float32, long sequences would have the gradients of other states."""
  model, found = create(dtype="float32"), []

  def init_state(batch_size, *, compensated=False, max_tokens=None):
    found.append(compensated)
    return model.init_state(batch_size, compensated=compensated)

  spied = model._replace(init_state=init_state)
  value_and_grad = make_value_and_grad(
    spied, method="slim", chunk_size=5, policy=policy
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  found.clear()  # That of an abstract one, which says what it remembers.
  jax.eval_shape(value_and_grad, params, batch_of(10))
  assert found == [policy == "rewind"]


@functools.cache
def copying_case():
  """A batch to copy, of many chunks, in float32."""
  words = np.random.default_rng(0).integers(0, 11, (2, 500))
  tokens = np.tile(words, 2).astype(np.int32)
  weights = np.ones((2, 999), np.float32)
  weights[:, :499] = 0
  return Batch(tokens[:, :-1], tokens[:, 1:], weights)


FEATURES = {
  "square": {},
  # Heads of 64, as their width is what the exponents grow with.
  "favor": {
    "feature_map": "favor",
    "num_features": 128,
    "qk_norm": True,
    "width": 128,
  },
}


def rounding_model(dtype, features):
  """A model of two layers whose rounding is measured."""
  sizes = {"vocab_size": 11, "num_layers": 2, "mlp_width": 32}
  return create(norm="pre", dtype=dtype, **sizes | FEATURES[features])


def as_users(model, **how):
  """Its `value_and_grad` with the roundings that users get."""
  return jax.jit(
    make_value_and_grad(model, **how),
    compiler_options=COMPILER_OPTIONS | AS_USERS,
  )


@functools.cache
def float32_params(trained, features="square"):
  """Parameters as initialised, or after 60 steps of Adam."""
  model = rounding_model("float32", features)
  params = init_params(model)
  if not trained:
    return params
  optimizer = optax.adam(1e-2)

  @jax.jit
  def update(params, state, gradients):
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  by_full = as_users(model, method="full")
  for _ in range(60):
    _, gradients = by_full(params, copying_case())
    params, state = update(params, state, gradients)
  return params


@functools.cache
def float32_right(trained, features="square"):
  """The gradient of the same weights in float64."""
  with jax.enable_x64(True):
    run = gradient_of(rounding_model("float64", features), method="full")
    params = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), float32_params(trained, features)
    )
    return run(params, copying_case())[1]


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  each_value(
    policy=POLICIES, chunk_size=[64, 95, 999], features=list(FEATURES)
  ),
)
def test_float32_is_as_exact_as_full(case):
  """Rounding would grow with the length, as plain subtraction makes it."""
  policy, chunk_size, features = case.values()
  model = rounding_model("float32", features)
  full = as_users(model, method="full")
  slim = as_users(model, method="slim", chunk_size=chunk_size, policy=policy)
  for trained in (False, True):
    params = float32_params(trained, features)
    right = float32_right(trained, features)
    _, by_full = full(params, copying_case())
    _, by_slim = slim(params, copying_case())
    assert_gradients_close(by_slim, by_full, 5e-6)
    # Where full is right by luck: 2.9e-6 has been seen, with "store", which
    # undoes nothing. It depends on the processor.
    floor = 3.5e-6
    allowed = relative_errors(by_full, right)
    for name, error in relative_errors(by_slim, right).items():
      assert error <= max(1.5 * allowed[name], floor), (name, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
  "features", ["square", pytest.param("favor", marks=pytest.mark.full)]
)
def test_bfloat16_rewinds_as_exactly_as_it_stores(features):
  """Chunks would be undone with other roundings than they were done with."""
  model = rounding_model("bfloat16", features)
  params = float32_params(True, features)
  store, rewind = (
    relative_errors(
      as_users(model, method="slim", chunk_size=16, policy=policy)(
        params, copying_case()
      )[1],
      float32_right(True, features),
    )
    for policy in ("store", "rewind")
  )
  # Seen are 1.0 to 1.2; and up to 70 where some roundings are left out.
  ratios = {name: rewind[name] / store[name] for name in store}
  assert max(ratios.values()) <= 1.5, ratios
