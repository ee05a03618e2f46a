"""A scan composes with JAX's transformations, and costs what it says."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.kernels import POLICIES, scan
from slim.plan.memory_estimate import count_residuals
from slim.training.flops import count_matmul_flops
from tests.helpers import TOLERANCES, assert_gradients_close, pairwise
from tests.kernels.toy import (
  Data,
  by_scan,
  dense,
  gradients_and_outputs,
  loss,
  make_inputs,
  outputs,
)

# "sqrt" makes of the 8 chunks: the short one, a short group, 3 groups of 2.
T, C = 15, 2


def value(inputs, data, run):
  """The toy's loss alone."""
  return loss(inputs, data, run)[0]


def right_gradients(inputs, data):
  """What is right; compiled once for all that walks in chunks."""
  return gradients_and_outputs(inputs, data, dense)[0]


def assert_close(found, right):
  """Compares gradients in float64."""
  assert_gradients_close(found, right, TOLERANCES["float64"])


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
    name: jax.tree.map(lambda x: x / 2, inputs[name]) for name in names
  }
  members = inputs | {
    name: jax.tree.map(lambda *x: jnp.stack(x), inputs[name], half[name])
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

  right = [right_gradients(x, data) for x in (inputs, half)]
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


@functools.cache
def sharded_gradients(policy, names):
  """Compiles the toy's gradients for four devices, which share the batch.

  Args:
    policy: Of the scan.
    names: Of the inputs to differentiate in.

  Returns:
    The compiled function, and its arguments.
  """
  mesh = jax.make_mesh(
    (4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]
  )
  whole, shared = PartitionSpec(), PartitionSpec("data")
  inputs, data = make_inputs(T, "float64", batch_size=8)
  specs = {"params": whole, "weights": whole, "total": shared, "x": shared}

  def gradients(inputs, data):
    chosen = {name: inputs[name] for name in names}
    return jax.grad(
      lambda chosen: value(inputs | chosen, data, by_scan(policy, C))
    )(chosen)

  sharded = jax.shard_map(
    gradients,
    mesh=mesh,
    in_specs=(specs, Data(shared, whole, whole, whole, shared, shared, shared)),
    out_specs={name: specs[name] for name in names},
  )
  lowered = jax.jit(sharded).lower(inputs, data)
  return lowered.compile(), (inputs, data)


@pytest.mark.parametrize(
  "names",
  [
    ("params", "total", "x"),
    pytest.param(("params", "weights", "total", "x"), marks=pytest.mark.slow),
  ],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_shard_map(x64, policy, names):
  """Data-parallel training would fail, or its gradient be another one."""
  compiled, args = sharded_gradients(policy, names)
  right = right_gradients(*args)
  assert_close(compiled(*args), {name: right[name] for name in names})


@pytest.mark.parametrize("policy", POLICIES)
def test_devices_sum_the_gradients_of_params_once(x64, policy):
  """They would wait for each other at every chunk."""
  compiled, _ = sharded_gradients(policy, ("params", "total", "x"))
  # A computation of the program begins and ends in the first column.
  computations = {
    text.strip().split(maxsplit=1)[0]: re.findall(
      r"= .* all-reduce(?:-start)?\(", text
    )
    for text in compiled.as_text().strip().split("\n}\n")
  }
  # At most one an array, here kernel, gain and idle; XLA may join them.
  assert 1 <= len(computations.pop("ENTRY")) <= 3
  assert not any(computations.values())


def gradient_of_tokens(policy):
  """The gradient of a toy that sees integers only, as a language model does."""

  def hidden(params, tokens):
    return jnp.tanh(params["embedding"][tokens] @ params["kernel"])

  def add(before, h):
    sums = before[:, None] + jnp.cumsum(h, 1)
    return sums[:, -1], jnp.sin(sums).sum((1, 2))[:, None]

  def step(params, state, tokens):
    return add(state, hidden(params, tokens))

  def rewind(params, after, tokens):
    h = hidden(params, tokens)
    before = after - jax.lax.stop_gradient(h.sum(1))
    after, out = add(before, h)
    return before, out, after

  run = dense if policy == "dense" else by_scan(policy, 64)

  def total(params, tokens):
    state = jnp.zeros((1, params["kernel"].shape[1]))
    return run(step, rewind, params, state, tokens)[1].sum()

  return jax.grad(total), total


PARAMS = {
  "embedding": jax.ShapeDtypeStruct((5, 16), jnp.float32),
  "kernel": jax.ShapeDtypeStruct((16, 8), jnp.float32),
}


def activation_bytes(policy, length):
  """The temporaries of a compiled gradient; nothing is run."""
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  gradient, _ = gradient_of_tokens(policy)
  compiled = jax.jit(gradient).lower(PARAMS, tokens).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_the_memory_of_rewind_does_not_grow():
  """The whole point: it would keep something of every token or chunk."""
  short, long = 4096, 65536
  num_chunks = (long - short) // 64
  # A chunk has its one output, and the cotangent of that.
  growth = activation_bytes("rewind", long) - activation_bytes("rewind", short)
  assert growth <= 16 * num_chunks
  # A state of 8 floats for each chunk: the measure sees what is kept.
  growth = activation_bytes("store", long) - activation_bytes("store", short)
  assert growth >= 32 * num_chunks


def test_states_alone_are_kept():
  """Activations of all chunks would be, or of "sqrt" the state of each."""
  tokens = jax.ShapeDtypeStruct((1, 64 * 64), jnp.int32)
  totals = {
    policy: count_residuals(
      gradient_of_tokens(policy)[1], PARAMS, tokens
    ).total_bytes
    for policy in POLICIES
  }
  # 64 states of 8 floats, and the chunks of tokens.
  assert 64 * 32 <= totals["store"] <= 64 * 32 + 2**15
  assert totals["sqrt"] <= 8 * 32 + 2**15
  assert totals["rewind"] <= 2 * 32


@pytest.mark.parametrize("length", [256, 300])
def test_each_chunk_is_recomputed_once(length):
  """Undoing and differentiating would each have a forward pass of its own."""
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  forward = count_matmul_flops(gradient_of_tokens("dense")[1], PARAMS, tokens)
  work = {
    policy: count_matmul_flops(gradient_of_tokens(policy)[0], PARAMS, tokens)
    for policy in ("dense", *POLICIES)
  }
  assert work["dense"] == 3 * forward
  assert work["store"] <= 4.1 * forward
  assert work["sqrt"] <= 5.1 * forward
  assert work["rewind"] <= 4.1 * forward
