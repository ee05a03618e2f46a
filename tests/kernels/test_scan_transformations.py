"""A scan composes with JAX's transformations, and costs what it says."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from slim.kernels import POLICIES, scan
from slim.metrics import count_matmul_flops
from tests.helpers import TOLERANCES, assert_gradients_close, each_value
from tests.kernels.toy import (
  Data,
  State,
  by_scan,
  dense,
  gradients_and_outputs,
  loss,
  make_inputs,
  make_toy,
)

# "sqrt" makes of the 8 chunks: the short one, a short group, 3 groups of 2.
T, C = 15, 2


def value(inputs, data, run):
  """The toy's loss alone."""
  return loss(inputs, data, run)[0]


@functools.cache
def dense_gradients():
  """What is right in float64, computed once for all that walks in chunks."""
  return gradients_and_outputs(*make_inputs(T, "float64"), dense)[0]


def assert_close(found, right):
  """Compares gradients in float64."""
  assert_gradients_close(found, right, TOLERANCES["float64"])


@pytest.mark.parametrize(
  "case",
  each_value(
    policy=POLICIES,
    mapped=["params", "weights", "total", "x", "all"],
    order=["grad(vmap)", "vmap(grad)"],
  ),
)
def test_vmap(x64, case):
  """An ensemble, or gradients by example, would fail or mix its members."""
  mapped = case["mapped"]
  inputs, data = make_inputs(T, "float64")
  names = list(inputs) if mapped == "all" else [mapped]
  axes = {name: 0 if name in names else None for name in inputs}
  members = inputs | {
    name: jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), inputs[name])
    for name in names
  }

  def gradients(members, data, run):
    if case["order"] == "vmap(grad)":
      return jax.vmap(jax.grad(value), (axes, None, None))(members, data, run)
    return jax.grad(
      lambda members: jax.vmap(value, (axes, None, None))(
        members, data, run
      ).sum()
    )(members)

  compiled = jax.jit(gradients, static_argnums=2)
  found = compiled(members, data, by_scan(case["policy"], C))
  assert_close(found, compiled(members, data, dense))


TRANSFORMS = {
  "grad": lambda f: jax.grad(f),
  "jit(grad)": lambda f: jax.jit(jax.grad(f)),
  "grad(jit)": lambda f: jax.grad(jax.jit(f)),
  "jit(grad(remat))": lambda f: jax.jit(jax.grad(jax.checkpoint(f))),
}


@pytest.mark.parametrize(
  "case", each_value(policy=POLICIES, transform=list(TRANSFORMS))
)
def test_grad_with_jit_and_checkpoint(x64, case):
  """A closed-over key or weight would leak out of one of the traces."""
  inputs, data = make_inputs(T, "float64")
  run = by_scan(case["policy"], C)
  transform = TRANSFORMS[case["transform"]]
  found = transform(lambda *args: value(*args, run))(inputs, data)
  assert_close(found, dense_gradients())


@pytest.mark.parametrize("policy", POLICIES)
def test_a_cotangent_on_the_final_state_only(x64, policy):
  """A loss of the state alone would get no gradient, or fail."""
  inputs, data = make_inputs(T, "float64")

  def loss_of_state(inputs, run):
    step, rewind = make_toy(inputs["weights"], data.key)
    state = State(inputs["total"], data.position)
    xs = (inputs["x"], data.tokens)
    state, _ = run(step, rewind, inputs["params"], state, xs)
    return jnp.vdot(state.total, data.total_ct)

  gradient = jax.jit(jax.grad(loss_of_state), static_argnums=1)
  assert_close(gradient(inputs, by_scan(policy, C)), gradient(inputs, dense))


def with_key_in_state(step, rewind):
  """Wraps the toy so that its state has a typed PRNG key, too."""

  def keyed_step(params, state, chunk):
    key, state = state
    state, outs = step(params, state, chunk)
    return (key, state), outs

  def keyed_rewind(params, after, chunk):
    key, after = after
    before, outs, after = rewind(params, after, chunk)
    return (key, before), outs, (key, after)

  return keyed_step, keyed_rewind


@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_in_the_state(x64, policy):
  """A step that carries its own randomness could not be differentiated."""
  inputs, data = make_inputs(T, "float64")

  def run(step, rewind, params, state, xs):
    state = (jax.random.key(1), state)
    step, rewind = with_key_in_state(step, rewind)
    (key, state), outs = by_scan(policy, C)(step, rewind, params, state, xs)
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return state, outs

  found = gradients_and_outputs(inputs, data, run)[0]
  assert_close(found, dense_gradients())


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

  def total(gain):
    xs = jnp.ones((1, 1024))
    state, _ = scan(
      step, gain, jnp.zeros(1), xs, chunk_size=1, policy=policy, rewind=rewind
    )
    return state.sum()

  gradient = jax.grad(total)(jnp.ones((), jnp.bfloat16))
  assert gradient.dtype == jnp.bfloat16
  assert gradient == 1024


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
    second(slope)(inputs["total"])


@pytest.mark.parametrize("policy", ["store", "sqrt"])
def test_a_second_derivative_through_stored_states(x64, policy):
  """The policies that the message above recommends would not help."""
  inputs, data = make_inputs(T, "float64")

  def second(inputs, run):
    along = jax.tree.map(jnp.cos, inputs)
    gradient = jax.grad(lambda inputs: value(inputs, data, run))
    return jax.jvp(gradient, (inputs,), (along,))[1]

  compiled = jax.jit(second, static_argnums=1)
  assert_close(compiled(inputs, by_scan(policy, C)), compiled(inputs, dense))


@pytest.mark.parametrize("policy", ["store", "sqrt"])
def test_forward_derivatives_through_stored_states(x64, policy):
  """`jax.jvp` would fail or differ from the dense one."""
  inputs, data = make_inputs(T, "float64")

  def derivative(inputs, run):
    along = jax.tree.map(jnp.cos, inputs)
    return jax.jvp(lambda x: value(x, data, run), (inputs,), (along,))

  compiled = jax.jit(derivative, static_argnums=1)
  assert_close(compiled(inputs, by_scan(policy, C)), compiled(inputs, dense))


@pytest.mark.parametrize("case", each_value(outer=POLICIES, inner=POLICIES))
def test_a_scan_inside_a_scan(x64, case):
  """A step could not itself walk in chunks."""
  outer, inner = case.values()
  inputs, data = make_inputs(T, "float64")

  def run(step, rewind, params, state, xs):
    def inner_step(params, state, chunk):
      state, (y, sums) = by_scan(inner, 2)(step, rewind, params, state, chunk)
      return state, (y, sums.sum(1, keepdims=True))

    def inner_rewind(params, after, chunk):
      before, _, _ = rewind(params, after, chunk)
      after, outs = inner_step(params, before, chunk)
      return before, outs, after

    return by_scan(outer, 5)(inner_step, inner_rewind, params, state, xs)

  found = gradients_and_outputs(inputs, data, run)[0]
  assert_close(found, dense_gradients())


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
    in_specs=(specs, Data(shared, whole, whole, shared, shared, shared)),
    out_specs={name: specs[name] for name in names},
  )
  lowered = jax.jit(sharded).lower(inputs, data)
  return lowered.compile(), (inputs, data)


@pytest.mark.parametrize("policy", POLICIES)
def test_shard_map(x64, policy):
  """Data-parallel training would fail, or its gradient be another one."""
  names = ["params", "weights", "total", "x"]
  compiled, args = sharded_gradients(policy, names)
  assert_close(compiled(*args), gradients_and_outputs(*args, dense)[0])


@pytest.mark.parametrize("policy", POLICIES)
def test_devices_sum_the_gradients_of_params_once(x64, policy):
  """They would wait for each other at every chunk."""
  compiled, _ = sharded_gradients(policy, ["params"])
  # A computation of the program begins and ends in the first column.
  computations = {
    text.strip().split(maxsplit=1)[0]: re.findall(
      r"= .* all-reduce(?:-start)?\(", text
    )
    for text in compiled.as_text().strip().split("\n}\n")
  }
  # At most one an array, here kernel and gain; XLA may join them.
  assert 1 <= len(computations.pop("ENTRY")) <= 2
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
