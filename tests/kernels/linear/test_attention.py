"""The three forms of linear attention: one function, one gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.kernels import (
  PrefixSums,
  parallel_linear_attention,
  recurrent_linear_attention,
)
from tests.helpers import TOLERANCES, assert_gradients_close, pairwise
from tests.kernels.linear.cases import (
  THREE_FORMS,
  assert_right,
  in_blocks_of,
  random_arguments,
)

FORMS = [
  parallel_linear_attention,
  recurrent_linear_attention,
  *map(in_blocks_of, [1, 7, 64, 200]),
]


@pytest.mark.parametrize(
  "case",
  pairwise(
    form=FORMS,
    length=[1, 2, 63, 64, 65, 130],
    dtype=list(TOLERANCES),
    compensated=[False, True],
  ),
)
def test_every_form_computes_the_equation(x64, case):
  """Fails if a form computes another value or gradient."""
  args, cts = random_arguments(
    case["length"], case["dtype"], case["compensated"]
  )
  assert_right(case["form"], args, cts, TOLERANCES[case["dtype"]])


@settings(max_examples=5)
@given(
  length=st.integers(1, 9),
  block_size=st.integers(1, 11),
  sizes=st.tuples(*[st.integers(1, 3)] * 4),
)
def test_blocks_of_any_size_compute_the_equation(length, block_size, sizes):
  """Fails if some shape, such as an axis of 1, is padded wrongly."""
  with jax.enable_x64(True):
    args, cts = random_arguments(length, "float64", sizes=sizes)
    assert_right(in_blocks_of(block_size), args, cts, TOLERANCES["float64"])


@pytest.mark.parametrize(
  "forms",
  [THREE_FORMS, pytest.param(THREE_FORMS[::-1], marks=pytest.mark.slow)],
  ids=["as listed", "reversed"],
)
@pytest.mark.parametrize("compensated", [False, True])
def test_a_sequence_can_be_cut_and_continued(x64, forms, compensated):
  """Fails if generation cannot continue from the state of a prompt."""

  def cut(q, k, v, state, eps):
    ys = []
    for i, form in enumerate([*forms, forms[0]]):
      q_part, k_part, v_part = (x[:, 3 * i : 3 * i + 3] for x in (q, k, v))
      y, state = form(q_part, k_part, v_part, state, eps=eps)
      ys.append(y)
    return jnp.concatenate(ys, 1), state

  args, cts = random_arguments(11, "float64", compensated)
  assert_right(cut, args, cts, TOLERANCES["float64"])


@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_error_terms_reach_the_output(form):
  """Fails if the error terms of compensated sums do not reach the output."""
  args, _ = random_arguments(6, "float32", compensated=True)
  *tokens, state = args
  # Larger than real rounding errors, to be visible.
  error = jax.tree.map(lambda x: np.full_like(x, 0.25), state.error)
  moved = PrefixSums(state.kv - error.kv, state.k - error.k, error)
  form = jax.jit(form)
  y, after = form(*tokens, moved)
  right_y, right_after = form(*tokens, state)
  np.testing.assert_allclose(y, right_y, rtol=1e-4)
  assert_gradients_close(
    [after.kv + after.error.kv, after.k + after.error.k],
    [right_after.kv, right_after.k],
    TOLERANCES["float32"],
  )
