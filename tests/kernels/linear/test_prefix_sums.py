"""Prefix sums: initial values, sums of tokens, error terms, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  PrefixSums,
  add_sums,
  init_prefix_sums,
  rewind_prefix_sums,
  token_sums,
)
from slim.kernels.linear.prefix_sums import sum_values
from tests.helpers import TOLERANCES, assert_gradients_close
from tests.kernels.linear.sums import (
  B,
  H,
  M,
  V,
  exact,
  random_sums,
  random_tokens,
)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_plain_and_compensated_sums_agree(x64, dtype):
  """Fails if a state made for "rewind" is another model."""
  updates = random_sums(2, 50, dtype=dtype)

  @jax.jit
  def add_all(updates):
    states = []
    for compensated in (False, True):
      state = init_prefix_sums(B, H, M, V, dtype=dtype, compensated=compensated)
      states.append(
        jax.lax.scan(lambda s, u: (add_sums(s, u), None), state, updates)[0]
      )
    return states, [sum_values(state) for state in states]

  states, sums = add_all(updates)
  assert all(x.dtype == dtype for x in jax.tree.leaves(states))
  assert_gradients_close(*sums, TOLERANCES[dtype])
  right = jax.tree.map(lambda x: np.float64(x).sum(0), updates)
  assert_gradients_close(sums[1], right, TOLERANCES[dtype])


def test_error_terms_count_in_the_value():
  """Fails if the digits beyond those of the dtype are lost."""
  state = random_sums(0, compensated=True)
  error = jax.tree.map(lambda x: np.asarray(x) + 1, state.error)
  state = state._replace(error=error)
  values = jax.jit(sum_values)(state)
  for value, right in zip(values[:2], exact(state), strict=True):
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
    assert not np.asarray(x).any()


def test_initial_sums_are_separate_buffers():
  """Fails if a program that donates its state is refused."""
  leaves = jax.tree.leaves(init_prefix_sums(B, H, M, V, compensated=True))
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == 4


@pytest.mark.parametrize("block_size", [1, 3, 7, 64])
def test_token_sums(x64, block_size):
  """Fails if tokens are lost when the block does not divide the sequence."""
  k, v = map(np.asarray, random_tokens(7, jnp.float64))
  sums = jax.jit(functools.partial(token_sums, block_size=block_size))(k, v)
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
  before = jax.tree.map(np.float64, random_sums(0))

  @jax.jit  # Without arguments, as it narrows them itself.
  def run():
    update = token_sums(k, v, block_size=3)
    back = rewind_prefix_sums(add_sums(before, update), update)
    state = init_prefix_sums(0, H, M, V, compensated=True)
    return update, back, add_sums(state, token_sums(k[:0], v[:0]))

  update, back, empty = run()
  assert all(x.dtype == "float32" for x in jax.tree.leaves((update, back)))
  assert_gradients_close(back, before, 1e-6)
  assert empty.kv.shape == (0, H, M, V)


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


def test_error_terms_of_an_update_are_not_dropped():
  """Fails if two compensated sums are added as if they were plain."""
  state = init_prefix_sums(1, 1, 2, 2, compensated=True)
  with pytest.raises(ValueError, match="update must have no error terms"):
    add_sums(state, state)
