"""A scan over chunks is the whole sequence at once, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.kernels import POLICIES, scan
from slim.kernels.chunk_scan._storing import _group_size
from tests.helpers import TOLERANCES, assert_gradients_close, pairwise
from tests.kernels.toy import (
  by_scan,
  dense,
  gradients_and_outputs,
  make_inputs,
  outputs,
)

T = 16


@functools.cache
def dense_result(dtype, axis):
  """What is right, computed once for all chunk sizes."""
  return gradients_and_outputs(*make_inputs(T, dtype, axis=axis), dense, axis)


def assert_same(found, right, dtype):
  """Compares gradients, and each of the outputs."""
  assert_gradients_close(found[0], right[0], TOLERANCES[dtype])
  for a, b in zip(*map(jax.tree.leaves, (found[1], right[1])), strict=True):
    assert a.dtype == b.dtype
    assert_gradients_close(a, b, TOLERANCES[dtype])


@pytest.mark.parametrize(
  "case",
  pairwise(
    # The first of each meet in `make test`: rewinding over several chunks.
    policy=POLICIES[::-1],
    chunk_size=[5, 1, T - 1, T + 5],
    dtype=list(TOLERANCES),
    axis=[0, 1],
  ),
)
def test_any_cut_is_the_whole(x64, case):
  """The gradient would be truncated or wrong, or depend on the cut."""
  dtype, axis = case["dtype"], case["axis"]
  run = by_scan(case["policy"], case["chunk_size"], axis)
  inputs, data = make_inputs(T, dtype, axis=axis)
  found = gradients_and_outputs(inputs, data, run, axis)
  assert_same(found, dense_result(dtype, axis), dtype)


@pytest.mark.slow
@settings(max_examples=25)
@given(
  length=st.integers(1, 9),
  chunk_size=st.integers(1, 10),
  batch_size=st.integers(0, 3),
  axis=st.integers(0, 1),
  policy=st.sampled_from(POLICIES),
)
def test_any_shape_is_the_whole(length, chunk_size, batch_size, axis, policy):
  """Some length, batch or axis of time would be cut or joined wrongly."""
  with jax.enable_x64(True):
    inputs, data = make_inputs(length, "float64", batch_size, axis)
    right = gradients_and_outputs(inputs, data, dense, axis)
    run = by_scan(policy, chunk_size, axis)
    found = gradients_and_outputs(inputs, data, run, axis)
    assert_same(found, right, "float64")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_outs_of_chunks_are_joined_along_time(policy):
  """A sum over each chunk would come back as anything but N sums."""
  inputs, data = make_inputs(T, "float32")
  run = jax.jit(lambda *args: outputs(*args, by_scan(policy, 7)))
  final, y, sums = run(inputs, data)
  y, sums = np.asarray(y), np.asarray(sums)
  assert (y.shape, sums.shape) == ((2, T, 3), (2, 3))
  right = [part.sum((1, 2)) for part in np.split(y, [2, 9], axis=1)]
  np.testing.assert_allclose(sums.T, right, rtol=1e-4, atol=1e-5)
  assert final.position == 7 + T


def toy_arguments():
  """A step that counts, which anything can be done wrong with."""
  state = {"total": jnp.zeros(2)}

  def step(params, state, chunk):
    return {"total": state["total"] + params * chunk.sum(1)}, chunk

  def rewind(params, after, chunk):
    update = jax.lax.stop_gradient(params * chunk.sum(1))
    before = {"total": after["total"] - update}
    return before, *reversed(step(params, before, chunk))

  return step, rewind, jnp.ones(()), state, jnp.ones((2, 8))


def test_an_unknown_policy_is_refused():
  """A misspelt policy would silently be another one."""
  step, _, *args = toy_arguments()
  message = r"policy must be one of \('store', 'sqrt', 'rewind'\), got 'rewnid'"
  with pytest.raises(ValueError, match=message):
    scan(step, *args, chunk_size=3, policy="rewnid")


@pytest.mark.parametrize("chunk_size", [3, 8])
def test_rewind_needs_a_function_that_undoes(chunk_size):
  """A step that cannot be undone would fail deep in the backward pass."""
  step, _, *args = toy_arguments()
  message = "policy 'rewind' needs `rewind`, .* choose policy 'sqrt' or 'store'"
  with pytest.raises(ValueError, match=message):
    scan(step, *args, chunk_size=chunk_size, policy="rewind")


def test_a_bad_chunk_size_is_refused():
  """The error would come from a slice, far from the setting."""
  step, _, *args = toy_arguments()
  message = "chunk_size must be a positive integer, got 0"
  with pytest.raises(ValueError, match=message):
    scan(step, *args, chunk_size=0)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      lambda state: {"total": state["total"].astype(jnp.bfloat16)},
      r"must have leaves \['float32\[2\]'\], got \['bfloat16\[2\]'\]",
    ),
    (
      lambda state: state | {"n": jnp.zeros(())},
      r"must have the structure .*'total': \*}\), got .*'n': \*, 'total'",
    ),
    (
      lambda state: {"total": state["total"][:, None]},
      r"must have leaves \['float32\[2\]'\], got \['float32\[2, 1\]'\]",
    ),
  ],
  ids=["dtype", "structure", "shape"],
)
@pytest.mark.parametrize("chunk_size", [3, 100])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_that_changes_its_state_is_refused(
  change, message, policy, chunk_size
):
  """The error would speak of a carry that the user has never heard of."""
  step, rewind, *args = toy_arguments()

  def wrong(params, state, chunk):
    state, out = step(params, state, chunk)
    return change(state), out

  with pytest.raises(ValueError, match=f"state that step returns {message}"):
    scan(wrong, *args, chunk_size=chunk_size, policy=policy, rewind=rewind)


@pytest.mark.parametrize(
  "wrong",
  [
    lambda before, out, after: (before, after),
    lambda before, out, after: (after, before, out),
    lambda before, out, after: (before, out[:, :1], after),
    lambda before, out, after: (before["total"], out, after),
  ],
  ids=["two", "order", "shape", "structure"],
)
def test_a_rewind_that_returns_anything_else_is_refused(wrong):
  """The gradient would fail on its cotangents, or take one for another."""
  step, rewind, *args = toy_arguments()
  message = (
    r"what rewind returns, \(state_before, out, state_after\), must have"
  )
  with pytest.raises(ValueError, match=message):
    scan(
      step,
      *args,
      chunk_size=3,
      policy="rewind",
      rewind=lambda *args: wrong(*rewind(*args)),
    )


@pytest.mark.parametrize("chunk_size", [3, 100])
@pytest.mark.parametrize("policy", POLICIES)
def test_an_out_without_time_is_refused(policy, chunk_size):
  """A scalar loss would work for some chunk sizes and not for others."""

  def step(params, state, chunk):
    return state, jnp.sum(params * chunk)

  def rewind(params, state, chunk):
    return state, jnp.sum(params * chunk), state

  with pytest.raises(ValueError, match=r"time axis 1, got shape \(\)"):
    scan(
      step,
      jnp.ones(()),
      jnp.zeros(()),
      jnp.ones((2, 10)),
      chunk_size=chunk_size,
      policy=policy,
      rewind=rewind,
    )


def test_groups_are_about_the_root():
  """The states of all chunks would be kept at once, or twice as many."""
  for count in range(1, 500):
    size = _group_size(count)
    assert size + -(-count // size) <= 3 * count**0.5


@pytest.mark.parametrize("policy", ["store", "sqrt"])
@pytest.mark.parametrize(("length", "count"), [(64, 2), (66, 4)])
def test_chunks_that_are_alike_are_one_program(policy, length, count):
  """Fails if a large model takes longer to compile, or more memory."""
  step, _, params, state, _ = toy_arguments()
  traces = []

  def counting_step(params, state, chunk):
    traces.append(chunk.shape)
    return step(params, state, chunk)

  xs = jnp.ones((2, length))
  scan(counting_step, params, state, xs, chunk_size=4, policy=policy)
  # A trace for each program, and one for the shapes of what the step returns.
  # For a short first chunk, there is one more for the sharding of that.
  assert len(traces) == count
