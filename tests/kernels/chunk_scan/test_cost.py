"""Memory and work of a scan's gradient are what the docstring says."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import POLICIES
from slim.plan.memory_estimate import count_residuals
from slim.targets.matrix_products import count_matmul_flops
from tests.kernels.toy import by_scan, dense


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
  wide = PARAMS | {"kernel": jax.ShapeDtypeStruct((16, 512), jnp.float32)}
  state = 512 * 4
  totals = {
    policy: count_residuals(
      gradient_of_tokens(policy)[1], wide, tokens
    ).total_bytes
    for policy in POLICIES
  }
  # 64 states, about 2 √64, or the last one; and the chunks of tokens.
  assert 64 * state <= totals["store"] <= 64 * state + 2**15
  assert totals["sqrt"] <= 16 * state + 2**15
  assert totals["rewind"] <= 2 * state


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
