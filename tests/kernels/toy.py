"""A recurrence of ten lines that can be undone, and all that flows through it.

It has what a language model has: an undecayed sum and a position in its state,
noise by position as of dropout, integer inputs, and a closure over weights and
a key; and beside them float inputs, which a language model has not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import scan

D, VOCAB_SIZE = 3, 5


class State(NamedTuple):
  """What the toy remembers."""

  total: jax.Array  # [B, D], float: the sum of what was seen.
  position: jax.Array  # [], int32: how many tokens were seen.


class Data(NamedTuple):
  """What is not differentiated; `*_ct` are cotangents of what comes out."""

  tokens: Any  # [B, T], int32.
  position: Any  # [], int32: where the sequence starts.
  key: jax.Array
  total_ct: Any  # [B, D].
  y_ct: Any  # [B, T, D].
  sums_ct: Any  # [B, 1].


def make_toy(weights, key, axis=1):
  """Makes `step` and `rewind`, which close over weights and a PRNG key."""

  def hidden(params, position, chunk):
    x, tokens = (jnp.moveaxis(x, axis, 1) for x in chunk)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      key, position + jnp.arange(tokens.shape[1])
    )
    noise = jax.vmap(lambda key: jax.random.normal(key, (D,), x.dtype))(keys)
    return jnp.tanh(x @ params["kernel"] + weights[tokens] + noise[None])

  def add(params, state, h):
    sums = state.total[:, None] + jnp.cumsum(h, 1)
    y = jnp.sin(sums * params["gain"])
    outs = (y, y.sum((1, 2))[:, None])
    return (
      State(sums[:, -1], state.position + h.shape[1]),
      jax.tree.map(lambda out: jnp.moveaxis(out, 1, axis), outs),
    )

  def step(params, state, chunk):
    return add(params, state, hidden(params, state.position, chunk))

  def rewind(params, after, chunk):
    position = after.position - chunk[1].shape[axis]
    h = hidden(params, position, chunk)
    total = after.total - jax.lax.stop_gradient(h.sum(1))
    before = State(total, position)
    after, outs = add(params, before, h)
    return before, outs, after

  return step, rewind


def make_inputs(length, dtype, batch_size=2, axis=1):
  """Makes what the loss is differentiated in, and the rest."""
  random = np.random.default_rng(length)

  def normal(*shape):
    return jnp.asarray(random.normal(size=shape).astype(dtype))

  inputs = {
    "params": {"kernel": normal(D, D), "gain": normal(1, 1, D)},
    "weights": normal(VOCAB_SIZE, D),
    "total": normal(batch_size, D),
    "x": jnp.moveaxis(normal(batch_size, length, D), 1, axis),
  }
  tokens = random.integers(VOCAB_SIZE, size=(batch_size, length))
  data = Data(
    jnp.moveaxis(jnp.asarray(tokens, jnp.int32), 1, axis),
    jnp.int32(7),
    jax.random.key(3),
    normal(batch_size, D),
    jnp.moveaxis(normal(batch_size, length, D), 1, axis),
    jnp.moveaxis(normal(batch_size, 1), 1, axis),
  )
  return inputs, data


def dense(step, rewind, params, state, xs):
  """The whole sequence at once: what is right."""
  del rewind
  return step(params, state, xs)


def by_scan(policy, chunk_size, axis=1):
  """Makes a function like `dense` that scans over chunks."""

  def run(step, rewind, params, state, xs):
    return scan(
      step,
      params,
      state,
      xs,
      chunk_size=chunk_size,
      axis=axis,
      policy=policy,
      rewind=rewind,
    )

  return run


def loss(inputs, data, run, axis=1):
  """Runs the toy; all that comes out has a part in the loss.

  Returns:
    The loss, and (final state, y, the sums over the chunks' own sums).
  """
  step, rewind = make_toy(inputs["weights"], data.key, axis)
  state = State(inputs["total"], data.position)
  xs = (inputs["x"], data.tokens)
  state, (y, sums) = run(step, rewind, inputs["params"], state, xs)
  sums = sums.sum(axis, keepdims=True)
  value = (
    jnp.vdot(state.total, data.total_ct)
    + jnp.vdot(y, data.y_ct)
    + jnp.vdot(sums, data.sums_ct)
  )
  return value, (state, y, sums)


def gradients_and_outputs(inputs, data, run, axis=1):
  """Differentiates the loss, compiled."""

  def compute(inputs, data):
    return jax.grad(loss, has_aux=True)(inputs, data, run, axis)

  return jax.jit(compute)(inputs, data)
