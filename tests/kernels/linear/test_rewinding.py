"""Prefix sums, and their derivatives, come back after rewinding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  PrefixSums,
  add_sums,
  chunked_linear_attention,
  init_prefix_sums,
  rewind_prefix_sums,
  token_sums,
)
from slim.kernels.linear.prefix_sums import sum_values
from tests.helpers import AS_USERS, TOLERANCES, assert_gradients_close
from tests.kernels.linear.sums import (
  B,
  H,
  M,
  V,
  exact,
  random_sums,
  random_tokens,
)


@functools.partial(jax.jit, compiler_options=AS_USERS)
def there_and_back(state, updates):
  """Adds all updates, and subtracts them in reverse order."""
  state, _ = jax.lax.scan(lambda s, u: (add_sums(s, u), None), state, updates)
  return jax.lax.scan(
    lambda s, u: (rewind_prefix_sums(s, u), None), state, updates, reverse=True
  )[0]


def distances_after_rewinding(compensated):
  """Relative distance of the rewound sums from the initial ones."""
  state = random_sums(0)
  if compensated:
    state = state._replace(error=jax.tree.map(jnp.zeros_like, state))
  back = there_and_back(state, random_sums(2, 2000))
  return [
    np.linalg.norm(a - b) / np.linalg.norm(b)
    for a, b in zip(exact(back), exact(state), strict=True)
  ]


def test_compensated_sums_come_back():
  """Fails if the gradient under "rewind" drifts with the sequence length."""
  assert max(distances_after_rewinding(compensated=True)) < 1e-11


def test_plain_sums_do_not_come_back():
  """Fails if the test above passes without error terms."""
  assert min(distances_after_rewinding(compensated=False)) > 1e-7


@pytest.mark.parametrize(("a", "b"), [(1.0, 1e-9), (1e-9, 1.0), (1.0, -1e-9)])
def test_error_of_a_sum_is_exact(a, b):
  """Fails if two-sum needs the larger summand first, or is optimised away."""

  def fill(x):
    return PrefixSums(jnp.full((B, H, M, V), x), jnp.full((B, H, M), x))

  state = init_prefix_sums(B, H, M, V, compensated=True)
  add = jax.jit(add_sums, compiler_options=AS_USERS)
  state = add(add(state, fill(a)), fill(b))
  for total, error in zip(state[:2], state.error[:2], strict=True):
    np.testing.assert_array_equal(total, np.float32(a + b))
    right = np.float64(np.float32(a)) + np.float64(np.float32(b))
    np.testing.assert_array_equal(np.float64(total) + np.float64(error), right)


@pytest.mark.parametrize("compensated", [False, True])
def test_derivative_of_rewinding_is_the_identity(compensated):
  """Fails if a function of the state before is not differentiated there."""
  after, update = random_sums(0, compensated=compensated), random_sums(2)

  def rewind(kv, k, update):
    state = rewind_prefix_sums(after._replace(kv=kv, k=k), update)
    return jnp.concatenate([state.kv.ravel(), state.k.ravel()])

  derivative = jax.jit(jax.jacobian(rewind, (0, 1, 2)))
  jacobians = jax.device_get(derivative(after.kv, after.k, update))
  size = B * H * M * (V + 1)
  by_after = [x.reshape(size, -1) for x in jacobians[:2]]
  np.testing.assert_array_equal(np.concatenate(by_after, 1), np.eye(size))
  # The tokens get their gradient from being added, so none from here.
  assert all(not x.any() for x in jax.tree.leaves(jacobians[2]))


@pytest.mark.parametrize("compensated", [False, True])
def test_one_pass_rewinds_and_differentiates(x64, compensated):
  """Fails if the gradient of one rewinding pass is wrong."""
  k, v = random_tokens(7, jnp.float64)
  before = random_sums(0, compensated=compensated, dtype=jnp.float64)
  before = jax.tree.map(lambda x: np.asarray(x) + 9, before)
  if compensated:
    before = before._replace(error=jax.tree.map(lambda x: x - 9, before.error))
  q_key, ct_key = jax.random.split(jax.random.key(7))
  q = jax.random.uniform(q_key, k.shape, jnp.float64)
  y_ct = jax.random.normal(ct_key, v.shape, jnp.float64)
  after_ct = random_sums(3, compensated=compensated, dtype=jnp.float64)

  def forward(q, k, v, state):
    return chunked_linear_attention(q, k, v, state, block_size=3)

  def again(q, k, v, after):
    state = rewind_prefix_sums(after, token_sums(k, v, block_size=3))
    return forward(q, k, v, state)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, *args):
    outputs, vjp = jax.vjp(function, *args)
    return outputs, vjp((y_ct, after_ct))

  (y, after), right = run(forward, q, k, v, before)
  (y_again, after_again), found = run(again, q, k, v, after)
  tol = TOLERANCES["float64"]
  assert_gradients_close((y_again, exact(after_again)), (y, exact(after)), tol)
  assert_gradients_close(found, right, tol)


@pytest.mark.parametrize(
  "function",
  [
    lambda state, update: add_sums(state, update),
    lambda state, update: rewind_prefix_sums(state, update),
    lambda state, update: sum_values(state),
  ],
  ids=["add_sums", "rewind_prefix_sums", "sum_values"],
)
def test_error_terms_have_no_derivative(function):
  """Fails if rounding errors are differentiated."""
  state, update = random_sums(0, compensated=True), random_sums(2)

  @jax.jit
  def derivative(state, update):
    sums, vjp = jax.vjp(function, state, update)
    return vjp(jax.tree.map(jnp.ones_like, sums))

  cotangent, _ = jax.device_get(derivative(state, update))
  assert all(not x.any() for x in jax.tree.leaves(cotangent.error))
  # Those of the sums pass as they are, the error's cotangent adds nothing.
  assert (cotangent.kv == 1).all()
  assert (cotangent.k == 1).all()
