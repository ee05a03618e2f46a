"""A scan composes with JAX's transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import POLICIES, scan
from tests.helpers import pairwise
from tests.kernels.chunk_scan.references import (
  C,
  T,
  assert_close,
  right_gradients,
  value,
)
from tests.kernels.toy import (
  by_scan,
  dense,
  gradients_and_outputs,
  make_inputs,
  outputs,
)


@pytest.mark.parametrize(
  "case",
  pairwise(
    policy=POLICIES[::-1],
    mapped=["weights", "params", "all"],
    order=["grad(vmap)", "vmap(grad)"],
  ),
)
def test_vmap(x64, case):
  """An ensemble, or gradients by example, would fail or mix its members."""
  mapped = case["mapped"]
  inputs, data = make_inputs(T, "float64")
  names = list(inputs) if mapped == "all" else [mapped]
  axes = {name: 0 if name in names else None for name in inputs}
  half = inputs | {
    name: jax.tree.map(lambda x: np.asarray(x) / 2, inputs[name])
    for name in names
  }
  members = inputs | {
    name: jax.tree.map(lambda *x: np.stack(x), inputs[name], half[name])
    for name in names
  }
  run = by_scan(case["policy"], C)

  @jax.jit
  def gradients(members, data):
    if case["order"] == "vmap(grad)":
      return jax.vmap(jax.grad(value), (axes, None, None))(members, data, run)
    return jax.grad(
      lambda members: jax.vmap(value, (axes, None, None))(
        members, data, run
      ).sum()
    )(members)

  right = [jax.device_get(right_gradients(x, data)) for x in (inputs, half)]
  right = {
    # One gradient a member, or the sum of those of what they share.
    name: jax.tree.map(
      lambda *x, name=name: (
        np.stack(x)
        if name in names or case["order"] == "vmap(grad)"
        else sum(x)
      ),
      *(x[name] for x in right),
    )
    for name in inputs
  }
  assert_close(gradients(members, data), right)


TRANSFORMS = {
  "grad(jit)": lambda f: jax.grad(jax.jit(f)),
  "jit(grad(remat))": lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
}


@pytest.mark.parametrize(
  "case", pairwise(policy=POLICIES[::-1], transform=list(TRANSFORMS))
)
def test_grad_with_jit_and_checkpoint(x64, case):
  """A closed-over key or weight would leak out of one of the traces."""
  inputs, data = make_inputs(T, "float64")
  run = by_scan(case["policy"], C)
  transform = TRANSFORMS[case["transform"]]
  found = transform(lambda *args: value(*args, run))(inputs, data)
  assert_close(found, right_gradients(inputs, data))


def test_a_cotangent_on_the_final_state_only(x64):
  """A loss of the state alone would get no gradient, or fail."""
  inputs, data = make_inputs(T, "float64")

  @jax.jit
  def gradient(inputs, data):
    def loss_of_state(inputs):
      state, _, _ = outputs(inputs, data, by_scan("rewind", C))
      return jnp.vdot(state.total, data.total_ct)

    return jax.grad(loss_of_state)(inputs)

  zero = {
    name: jnp.zeros_like(getattr(data, name)) for name in ("y_ct", "sums_ct")
  }
  right = right_gradients(inputs, data._replace(**zero))
  assert_close(gradient(inputs, data), right)


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_of_short_floats_are_summed_in_float32(policy):
  """In bfloat16 a sum of 1,024 ones stands still at 256."""

  def step(gain, state, chunk):
    return state + (gain.astype(jnp.float32) * chunk).sum(1), chunk

  def rewind(gain, after, chunk):
    update = jax.lax.stop_gradient((gain.astype(jnp.float32) * chunk).sum(1))
    before = after - update
    after, out = step(gain, before, chunk)
    return before, out, after

  @jax.jit
  @jax.grad
  def gradient(gain):
    xs = jnp.ones((1, 1024))
    state, _ = scan(
      step, gain, jnp.zeros(1), xs, chunk_size=1, policy=policy, rewind=rewind
    )
    return state.sum()

  found = gradient(jnp.ones((), jnp.bfloat16))
  assert found.dtype == jnp.bfloat16
  assert found == 1024


@pytest.mark.parametrize("second", [jax.grad, jax.jacfwd])
def test_a_second_derivative_through_rewind_is_refused(second):
  """It would be wrong without a word: the update is a constant there."""
  inputs, data = make_inputs(T, "float32")

  def slope(total):
    gradient = jax.grad(value)(
      inputs | {"total": total}, data, by_scan("rewind", C)
    )
    return gradient["total"].sum()

  message = (
    "policy 'rewind' has first derivatives only; for a second derivative "
    "choose policy 'sqrt' or 'store'"
  )
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(second(slope), inputs["total"])


@functools.cache
def small_derivatives(policy):
  """First derivatives forward and second ones of a small recurrence."""

  def step(w, state, chunk):
    sums = state[:, None] + jnp.cumsum(jnp.tanh(chunk * w), 1)
    return sums[:, -1], jnp.sin(sums) * w

  def value(w, state, xs):
    run = dense if policy == "dense" else by_scan(policy, C)
    state, outs = run(step, None, w, state, xs)
    return jnp.square(state).sum() + jnp.square(outs).sum()

  random = np.random.default_rng(0)
  shapes = (1, 1), (2,), (2, T)
  arrays = [jnp.asarray(random.normal(size=shape)) for shape in shapes]
  along = [jnp.cos(x) for x in arrays]
  gradient = jax.value_and_grad(value, (0, 1, 2))
  return jax.jit(lambda *x: jax.jvp(gradient, x, tuple(along)))(*arrays)


@pytest.mark.parametrize("policy", ["store", "sqrt"])
def test_forward_and_second_derivatives_through_stored_states(x64, policy):
  """The policies that the message above recommends would not help."""
  assert_close(small_derivatives(policy), small_derivatives("dense"))


@pytest.mark.parametrize(
  ("outer", "inner"),
  [
    pytest.param(
      outer,
      inner,
      marks=() if outer == inner == "rewind" else pytest.mark.slow,
    )
    for outer in POLICIES
    for inner in POLICIES
  ],
)
def test_a_scan_inside_a_scan(x64, outer, inner):
  """A step could not itself walk in chunks."""
  inputs, data = make_inputs(T, "float64")

  def run(step, rewind, params, state, xs):
    def inner_step(params, state, chunk):
      state, outs = by_scan(inner, 2)(step, rewind, params, state, chunk)
      y, sums, off = outs
      return state, (y, sums.sum(1, keepdims=True), off)

    def inner_rewind(params, after, chunk):
      before, _, _ = rewind(params, after, chunk)
      after, outs = inner_step(params, before, chunk)
      return before, outs, after

    return by_scan(outer, 5)(inner_step, inner_rewind, params, state, xs)

  found = gradients_and_outputs(inputs, data, run)[0]
  assert_close(found, right_gradients(inputs, data))
