"""Linear attention in float32: normalisers, short floats and offsets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import chunked_linear_attention, init_prefix_sums
from tests.helpers import TOLERANCES, assert_gradients_close
from tests.kernels.linear.cases import (
  THREE_FORMS,
  assert_right,
  by_equation,
  by_form,
  in_blocks_of,
  random_arguments,
)


@pytest.mark.parametrize("eps", [0.0, 1e-16])
@pytest.mark.parametrize("zero", ["q", "k", "both"])
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_zero_features_give_no_nan(form, zero, eps):
  """Fails if one token without features makes the whole gradient NaN."""
  (q, k, v, state), cts = random_arguments(7, "float32")
  state = jax.tree.map(np.zeros_like, state)
  q = q * 0 if zero in ("q", "both") else q
  k = k * 0 if zero in ("k", "both") else k
  outputs, gradients = by_form(form, (q, k, v, state), cts, eps)
  assert not outputs[0].any()
  for x in jax.tree.leaves((outputs, gradients)):
    assert np.isfinite(x).all()


@pytest.mark.parametrize("length", [5, 7])
def test_padding_does_not_divide_by_zero(length):
  """Fails if a padded last block makes every gradient NaN at eps = 0."""
  args, cts = random_arguments(length, "float32")
  assert_right(in_blocks_of(4), args, cts, TOLERANCES["float32"], eps=0.0)


@pytest.mark.parametrize("exponent", [-20, -12, 0, 12, 25])
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_tiny_and_huge_normalisers_have_gradients(form, exponent):
  """Fails if the square of the normaliser overflows or underflows."""
  (q, k, v, state), cts = random_arguments(9, "float32")
  # The normaliser is q · z. A cotangent of the final state would dominate k's.
  q, k, state = jax.tree.map(
    lambda x: np.float32(x * 10.0 ** (exponent / 2)), (q, k, state)
  )
  cts = (cts[0], jax.tree.map(np.zeros_like, cts[1]))
  outputs, gradients = by_form(form, (q, k, v, state), cts, eps=0.0)
  right_outputs, right_gradients = by_equation(q, k, v, state, *cts, eps=0.0)
  pairs = zip(
    (*outputs, *gradients), (*right_outputs, *right_gradients), strict=True
  )
  # One at a time, as their sizes differ by many orders of magnitude.
  for a, b in pairs:
    assert_gradients_close(a, b, TOLERANCES["float32"])


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_short_floats_have_a_float32_state(form, compensated):
  """Fails if sums are in bfloat16, which stop growing after 256 tokens."""
  ones = jnp.ones((1, 301, 1, 1), jnp.bfloat16)
  state = init_prefix_sums(1, 1, 1, 1, compensated=compensated)
  y, after = jax.jit(form)(ones, ones, ones, state)
  assert y.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype("float32")}
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert (after.kv.item(), after.k.item()) == (301, 301)
  assert (y == 1).all()


def test_value_offset_removes_rounding_of_a_common_part(x64):
  """Fails if subtracting a constant from the values no longer helps."""
  random = np.random.default_rng(0)
  q, k, v, y_ct = random.normal(size=(4, 1, 500, 2, 8))
  q, k, v = q**2, k**2, v + 100

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def gradient(dtype, has_offset):
    k_, v_, y_ct_ = (jnp.asarray(x, dtype) for x in (k, v, y_ct))
    state = init_prefix_sums(1, 2, 8, 8, dtype=dtype)
    offset = v_[:, :1] if has_offset else jnp.zeros_like(v_[:, :1])

    def loss(q):
      y, _ = chunked_linear_attention(q, k_, v_ - offset, state)
      return jnp.vdot(y + offset, y_ct_)

    return jax.grad(loss)(jnp.asarray(q, dtype))

  right = gradient("float64", False)
  assert_gradients_close(gradient("float64", True), right, 1e-10)
  errors = [
    np.linalg.norm(gradient("float32", has_offset) - right)
    / np.linalg.norm(right)
    for has_offset in (False, True)
  ]
  assert errors[1] <= 1e-5 < 3e-5 <= errors[0], errors
