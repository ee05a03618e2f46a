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
from tests.helpers import TOLERANCES, assert_gradients_close

B, H, M, V = 2, 2, 3, 4


def random_sums(seed, *leading, compensated=False, dtype=jnp.float32):
  """Sums over some tokens, or a stack of such sums."""
  keys = jax.random.split(jax.random.key(seed))
  sums = PrefixSums(
    jax.random.normal(keys[0], (*leading, B, H, M, V), dtype),
    jax.random.normal(keys[1], (*leading, B, H, M), dtype),
  )
  if not compensated:
    return sums
  # As large as real rounding errors.
  return sums._replace(error=jax.tree.map(lambda x: 1e-8 * x, sums))


def random_tokens(length, dtype=jnp.float32):
  """Keys after a feature map, and values."""
  keys = jax.random.split(jax.random.key(5))
  return (
    jax.random.uniform(keys[0], (B, length, H, M), dtype),
    jax.random.normal(keys[1], (B, length, H, V), dtype),
  )


def exact(sums):
  """The values of the sums, as two arrays in float64."""
  values = [np.float64(sums.kv), np.float64(sums.k)]
  if sums.error is None:
    return values
  return [v + e for v, e in zip(values, exact(sums.error), strict=True)]


@jax.jit
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
  state = jax.jit(add_sums)(add_sums(state, fill(a)), fill(b))
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

  jacobians = jax.jacobian(rewind, (0, 1, 2))(after.kv, after.k, update)
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
  before = jax.tree.map(lambda x: x + 9, before)
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
  sums, vjp = jax.vjp(function, state, update)
  cotangent, _ = vjp(jax.tree.map(jnp.ones_like, sums))
  assert all(not x.any() for x in jax.tree.leaves(cotangent.error))
  # Those of the sums pass as they are, the error's cotangent adds nothing.
  assert (cotangent.kv == 1).all()
  assert (cotangent.k == 1).all()


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_plain_and_compensated_sums_agree(x64, dtype):
  """Fails if a state made for "rewind" is another model."""
  updates = random_sums(2, 50, dtype=dtype)
  sums = []
  for compensated in (False, True):
    state = init_prefix_sums(B, H, M, V, dtype=dtype, compensated=compensated)
    state, _ = jax.lax.scan(lambda s, u: (add_sums(s, u), None), state, updates)
    assert all(x.dtype == dtype for x in jax.tree.leaves(state))
    sums.append(sum_values(state))
  assert_gradients_close(*sums, TOLERANCES[dtype])
  right = jax.tree.map(lambda x: np.float64(x).sum(0), updates)
  assert_gradients_close(sums[1], right, TOLERANCES[dtype])


def test_error_terms_count_in_the_value():
  """Fails if the digits beyond those of the dtype are lost."""
  state = random_sums(0, compensated=True)
  state = state._replace(error=jax.tree.map(lambda x: x + 1, state.error))
  for value, right in zip(sum_values(state)[:2], exact(state), strict=True):
    np.testing.assert_allclose(value, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("compensated", [False, True])
def test_initial_sums(x64, compensated, dtype):
  """Fails if a state starts with a wrong shape, dtype or value."""
  state = init_prefix_sums(B, H, M, V, dtype=dtype, compensated=compensated)
  parts = [state, state.error] if compensated else [state]
  assert (state.error is not None) == compensated
  for part in parts:
    assert (part.kv.shape, part.k.shape) == ((B, H, M, V), (B, H, M))
  for x in jax.tree.leaves(state):
    assert x.dtype == dtype
    assert not x.any()


def test_initial_sums_are_separate_buffers():
  """Fails if a program that donates its state is refused."""
  leaves = jax.tree.leaves(init_prefix_sums(B, H, M, V, compensated=True))
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == 4


@pytest.mark.parametrize("block_size", [1, 3, 7, 64])
def test_token_sums(x64, block_size):
  """Fails if tokens are lost when the block does not divide the sequence."""
  k, v = random_tokens(7, jnp.float64)
  sums = token_sums(k, v, block_size=block_size)
  right = PrefixSums(np.einsum("bthm,bthv->bhmv", k, v), np.sum(k, 1))
  assert sums.error is None
  assert_gradients_close(sums, right, TOLERANCES["float64"])


def test_token_sums_of_short_floats_are_float32():
  """Fails if they are summed in bfloat16, where 301 ones are at most 300."""
  ones = jnp.ones((1, 301, 1, 1), jnp.bfloat16)
  sums = token_sums(ones, ones)
  assert sums.kv.dtype == sums.k.dtype == jnp.float32
  assert (sums.kv.item(), sums.k.item()) == (301, 301)


def test_numpy_arrays_and_empty_batch():
  """Fails if NumPy float64 warns, or if the last batch of a dataset fails."""
  k, v = (np.float64(x) for x in random_tokens(7))
  update = token_sums(k, v, block_size=3)
  before = jax.tree.map(np.float64, random_sums(0))
  back = rewind_prefix_sums(add_sums(before, update), update)
  assert all(x.dtype == "float32" for x in jax.tree.leaves((update, back)))
  assert_gradients_close(back, before, 1e-6)
  empty = token_sums(k[:0], v[:0])
  state = init_prefix_sums(0, H, M, V, compensated=True)
  assert add_sums(state, empty).kv.shape == (0, H, M, V)


def test_sums_that_do_not_fit_are_refused():
  """Fails if the sums of one sequence are added to all of a batch."""
  state, one = random_sums(0), jax.tree.map(lambda x: x[:1], random_sums(2))
  for function in (add_sums, rewind_prefix_sums):
    with pytest.raises(ValueError, match=r"update.kv must have the shape \(2,"):
      function(state, one)
  k, v = random_tokens(7)
  with pytest.raises(ValueError, match=r"v must have shape .* B=2, T=7, H=2"):
    token_sums(k, v[:1])
  with pytest.raises(ValueError, match="k must be floating-point, got int"):
    token_sums(np.ones(k.shape, int), v)


@pytest.mark.parametrize("block_size", [0, -1, True, 1.5, "8"])
def test_bad_block_size_is_refused(block_size):
  """Fails if the error comes from a reshape, or if True means 1."""
  message = f"block_size must be a positive integer, got {block_size!r}$"
  with pytest.raises(ValueError, match=message):
    token_sums(*random_tokens(7), block_size=block_size)
