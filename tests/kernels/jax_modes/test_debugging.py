"""Every kernel runs under `jax.debug_nans` and `jax.debug_infs`."""

import functools

import jax
import jax.numpy as jnp
import pytest

from slim import kernels
from tests.kernels.jax_modes.case import BTHK
from tests.kernels.jax_modes.cases import (
  CASES,
  assert_close,
  call_eagerly,
  make_args,
  run_on_one_device,
  value_and_gradients,
)

# Attention that masks scores; `make test` runs the three that differ most.
_MASKED = ("softmax_attention", "chunked_softmax_attention", "lsh_attention")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in _MASKED else pytest.mark.slow)
    for name in CASES
  ],
)
def test_debugging_switches(name):
  """Fails if the -inf of masked scores is reported as an error."""
  args, right = run_on_one_device(name)
  with jax.debug_infs(True), jax.debug_nans(True):
    found = value_and_gradients(CASES[name].fn, *args)
  assert_close(found, right)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  "run",
  [
    pytest.param(call_eagerly, marks=pytest.mark.full),
    lambda fn, *args: jax.jit(fn)(*args),
  ],
)
def test_debugging_switches_in_float64(x64, name, run):
  """Like `test_debugging_switches`, in the other precision, and compiled."""
  args = make_args(CASES[name].shapes, "float64")
  fn = functools.partial(value_and_gradients, CASES[name].fn)
  with jax.debug_infs(True), jax.debug_nans(True):
    run(fn, *args)


@pytest.mark.parametrize(
  "fn",
  [
    kernels.softmax_attention,
    kernels.chunked_softmax_attention,
  ],
)
def test_debugging_switches_find_errors_of_the_user(fn):
  """Fails if a NaN is hidden from `jax.debug_nans`."""
  q, k, v = make_args((BTHK,) * 3, "float32")
  nan, inf = q.at[0, 0, 0, 0].set(jnp.nan), v.at[0, 0, 0, 0].set(jnp.inf)
  with jax.debug_nans(True), pytest.raises(FloatingPointError):
    fn(nan, k, v, is_causal=True)
  # A query that sees inf is NaN.
  with jax.debug_nans(True), pytest.raises(FloatingPointError):
    fn(q, k, inf, is_causal=True)
