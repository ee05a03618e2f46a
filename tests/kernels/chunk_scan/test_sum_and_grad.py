"""A loss summed over chunks has the gradient of the whole sequence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import POLICIES, scan, sum_and_grad
from tests.helpers import TOLERANCES, assert_gradients_close, pairwise
from tests.kernels.toy import State, make_inputs, make_toy

T = 16


def problem(inputs, data):
  """The toy's step, rewind, params, state and xs, with a loss and an aux."""
  step, rewind = make_toy(inputs["weights"], data.key)

  def loss_and_aux(outs, chunk):
    y, sums, _ = outs
    aux = {"sums": sums, "tokens": chunk[1].sum()}
    return jnp.square(y - 1).sum(), aux

  def summing_step(params, state, chunk):
    state, outs = step(params, state, chunk)
    return state, loss_and_aux(outs, chunk)

  def summing_rewind(params, after, chunk):
    before, outs, after = rewind(params, after, chunk)
    return before, loss_and_aux(outs, chunk), after

  state = State(
    inputs["total"], data.position, jax.random.key(1), jnp.array(True)
  )
  xs = inputs["x"], data.tokens, jnp.zeros((*data.tokens.shape, 0))
  params = inputs["params"] | data.constants
  return summing_step, summing_rewind, params, state, xs


def by_chunks(inputs, data, **settings):
  """Returns ((loss, aux), gradient) of the toy."""
  step, rewind, *args = problem(inputs, data)
  return sum_and_grad(step, *args, rewind=rewind, has_aux=True, **settings)


def at_once(inputs, data):
  """What `by_chunks` must return, by `jax.value_and_grad`."""
  step, _, params, state, xs = problem(inputs, data)
  return jax.value_and_grad(
    lambda params: step(params, state, xs)[1], has_aux=True, allow_int=True
  )(params)


@functools.cache
def right(dtype):
  """Computes `at_once` in one program for each dtype."""
  return jax.jit(at_once)(*make_inputs(T, dtype))


def assert_same(found, expected, dtype):
  """Compares loss, aux and gradient, with the dtypes of all leaves."""
  for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
  assert_gradients_close(found[0], expected[0], TOLERANCES[dtype])
  assert_gradients_close(found[1], expected[1], TOLERANCES[dtype])


@pytest.mark.parametrize(
  "case",
  pairwise(
    policy=POLICIES[::-1],
    chunk_size=[5, 4, 1, T - 1, T + 5],
    dtype=list(TOLERANCES),
  ),
)
def test_any_cut_is_the_whole(x64, case):
  """Fails if a chunk is left out, rewound wrongly or counted twice."""
  dtype = case.pop("dtype")
  run = jax.jit(functools.partial(by_chunks, **case))
  found = run(*make_inputs(T, dtype))
  assert_same(found, right(dtype), dtype)


@pytest.mark.slow
@pytest.mark.parametrize("length", range(1, 12))
def test_any_number_of_groups_is_the_whole(x64, length):
  """Fails if "sqrt" takes the wrong chunks into a short first group."""
  inputs, data = make_inputs(length, "float64")
  run = jax.jit(functools.partial(by_chunks, policy="sqrt", chunk_size=1))
  expected = jax.jit(at_once)(inputs, data)
  assert_same(run(inputs, data), expected, "float64")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chunk_size", [3, 4])
def test_complex_parameters(x64, policy, chunk_size):
  """Fails if a complex gradient is conjugated, or only its real part."""
  random = np.random.default_rng(0)
  w, xs = (
    random.normal(size=shape) + 1j * random.normal(size=shape)
    for shape in ((1, 1, 3), (2, 8, 3))
  )

  def step(w, state, chunk):
    update = (w * chunk).sum(1)
    after = state + update
    return after, jnp.square(jnp.abs(after + w[0])).sum()

  def rewind(w, after, chunk):
    before = after - jax.lax.stop_gradient((w * chunk).sum(1))
    return before, *step(w, before, chunk)[::-1]

  state = jnp.zeros((2, 3), complex)
  settings = dict(chunk_size=chunk_size, policy=policy, rewind=rewind)

  def total(w):
    after, losses = state, []
    first = 8 % chunk_size or chunk_size
    for chunk in np.split(xs, range(first, 8, chunk_size), axis=1):
      after, loss = step(w, after, chunk)
      losses.append(loss)
    return sum(losses)

  @jax.jit
  def gradients():
    _, found = sum_and_grad(step, w, state, xs, **settings)
    return found, jax.grad(total)(jnp.asarray(w))

  assert_gradients_close(*gradients(), 1e-12)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chunk_size", [1, 1023])
def test_short_floats_are_summed_in_float32(policy, chunk_size):
  """Fails if totals are bfloat16: a sum of 1,024 ones stands still at 256."""

  def step(gain, state, chunk):
    update = (gain.astype(jnp.float32) * chunk).sum(1)
    return state, update.sum()

  def rewind(gain, state, chunk):
    return state, step(gain, state, chunk)[1], state

  settings = dict(chunk_size=chunk_size, policy=policy, rewind=rewind)
  run = jax.jit(functools.partial(sum_and_grad, step, **settings))
  _, gradient = run(
    jnp.ones((), jnp.bfloat16), jnp.zeros(1), jnp.ones((1, 1024))
  )
  assert (gradient.dtype, gradient) == (jnp.bfloat16, 1024)


@pytest.mark.parametrize("chunk_size", [3, 4, 100])
@pytest.mark.parametrize("outer", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("which", ["params", "weights", "total", "x"])
def test_derivatives_of_the_result_are_refused(chunk_size, outer, which):
  """Fails if they are wrong, because `rewind` takes updates as constants."""
  inputs, data = make_inputs(T, "float32")

  def loss(x):
    run = functools.partial(by_chunks, policy="rewind", chunk_size=chunk_size)
    return run(inputs | {which: x}, data)[0][0]

  message = (
    "the result of sum_and_grad has no derivatives; for a second derivative "
    "differentiate slim.kernels.scan with policy 'sqrt' or 'store'"
  )
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(outer(loss), inputs[which])


def test_sum_and_grad_is_the_gradient_of_scan(x64):
  """Fails if the two disagree about the cut or the order of the chunks."""
  inputs, data = make_inputs(T, "float64")
  step, rewind, params, state, xs = problem(inputs, data)
  float_params = inputs["params"]

  def by_scan(floats):
    _, out = scan(
      lambda p, s, x: (lambda s, o: (s, o[0].reshape(1, 1)))(*step(p, s, x)),
      floats | data.constants,
      state,
      xs,
      chunk_size=5,
    )
    return out.sum()

  expected = jax.jit(jax.grad(by_scan))(float_params)
  _, found = jax.jit(functools.partial(by_chunks, chunk_size=5))(inputs, data)
  assert_gradients_close({k: found[k] for k in expected}, expected, 1e-12)


def test_the_dtype_of_aux_does_not_depend_on_the_chunk_size():
  """Fails if a flag is a boolean for one chunk, and an integer for two."""

  def step(w, state, x):
    return state, (w * x.sum(), {"flag": x.sum() > 0, "count": jnp.int8(1)})

  args = step, jnp.float32(1), (), jnp.ones((1, 4))
  found = [
    jax.eval_shape(
      lambda size=size: sum_and_grad(*args, chunk_size=size, has_aux=True)
    )
    for size in (2, 4)
  ]
  assert found[0] == found[1]
