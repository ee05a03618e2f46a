"""A recurrence of ten lines that can be rewound, with inputs of all kinds.

It has what a language model has: an undecayed sum and a position in its state,
noise by position as in dropout, integer inputs, and a closure over weights and
a key. It also has all other kinds of leaves: float inputs, inputs of width 0, a
parameter that nothing uses, and keys, integers and booleans among the
parameters and in the state.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import scan

D, VOCAB_SIZE = 3, 5


class State(NamedTuple):
  """State of the toy."""

  total: jax.Array  # [B, D], float: the sum over the tokens seen.
  position: jax.Array  # [], int32: the number of tokens seen.
  key: jax.Array
  flag: jax.Array  # [], bool.


class Data(NamedTuple):
  """Inputs that are not differentiated; `*_ct` are cotangents of outputs."""

  tokens: Any  # [B, T], int32.
  position: Any  # [], int32: where the sequence starts.
  key: jax.Array
  constants: Any  # Parameters without a gradient.
  total_ct: Any  # [B, D].
  y_ct: Any  # [B, T, D].
  sums_ct: Any  # [B, 1].


def make_toy(weights, key, axis=1):
  """Makes `step` and `rewind`, which close over weights and a PRNG key."""

  def hidden(params, state, position, chunk):
    x, tokens, _ = (jnp.moveaxis(x, axis, 1) for x in chunk)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
      key, position + jnp.arange(tokens.shape[1])
    )
    noise = jax.vmap(lambda key: jax.random.uniform(key, (D,), x.dtype))(keys)
    bits = [jax.random.key_data(key)[0] for key in (params["key"], state.key)]
    shift = (sum(bits) % 4).astype(x.dtype) / params["number"]
    shift = jnp.where(params["flag"] & state.flag, shift, 0)
    return jnp.tanh(
      x @ params["kernel"] + weights[tokens] + noise[None] + shift
    )

  def add(params, state, h, off):
    sums = state.total[:, None] + jnp.cumsum(h, 1)
    y = jnp.sin(sums * params["gain"])
    outs = (y, y.sum((1, 2))[:, None])
    after = state._replace(
      total=sums[:, -1], position=state.position + h.shape[1]
    )
    return after, (*(jnp.moveaxis(out, 1, axis) for out in outs), 2 * off)

  def step(params, state, chunk):
    h = hidden(params, state, state.position, chunk)
    return add(params, state, h, chunk[2])

  def rewind(params, after, chunk):
    position = after.position - chunk[1].shape[axis]
    h = hidden(params, after, position, chunk)
    total = after.total - jax.lax.stop_gradient(h.sum(1))
    before = after._replace(total=total, position=position)
    after, outs = add(params, before, h, chunk[2])
    return before, outs, after

  return step, rewind


def make_inputs(length, dtype, batch_size=2, axis=1):
  """Makes the inputs to differentiate, and the others."""
  random = np.random.default_rng(length)

  def normal(*shape):
    return random.normal(size=shape).astype(dtype)

  inputs = {
    "params": {
      "kernel": normal(D, D),
      "gain": normal(1, 1, D),
      "idle": normal(2),
    },
    "weights": normal(VOCAB_SIZE, D),
    "total": normal(batch_size, D),
    "x": np.moveaxis(normal(batch_size, length, D), 1, axis),
  }
  tokens = random.integers(VOCAB_SIZE, size=(batch_size, length))
  data = Data(
    np.moveaxis(tokens.astype(np.int32), 1, axis),
    np.int32(7),
    jax.random.key(3),
    {"key": jax.random.key(5), "number": np.int32(2), "flag": np.bool_(True)},
    normal(batch_size, D),
    np.moveaxis(normal(batch_size, length, D), 1, axis),
    np.moveaxis(normal(batch_size, 1), 1, axis),
  )
  return jax.tree.map(jnp.asarray, (inputs, data))


def dense(step, rewind, params, state, xs):
  """The whole sequence at once: the reference."""
  del rewind
  return step(params, state, xs)


@functools.cache  # So that equal programs are compiled once.
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


def outputs(inputs, data, run, axis=1):
  """Runs the toy.

  Returns:
    The final state, y, and the sums over chunks.
  """
  step, rewind = make_toy(inputs["weights"], data.key, axis)
  state = State(
    inputs["total"], data.position, jax.random.key(1), jnp.array(True)
  )
  off = jnp.zeros((*data.tokens.shape, 0), inputs["x"].dtype)
  xs = (inputs["x"], data.tokens, off)
  params = inputs["params"] | data.constants
  state, (y, sums, off) = run(step, rewind, params, state, xs)
  assert off.shape == (*data.tokens.shape, 0)
  return state, y, sums


def loss(inputs, data, run, axis=1):
  """Runs the toy with a loss of all its outputs.

  Returns:
    The loss, and (total, position, y, the sums over the chunks' own sums).
  """
  state, y, sums = outputs(inputs, data, run, axis)
  sums = sums.sum(axis, keepdims=True)
  value = (
    jnp.vdot(state.total, data.total_ct)
    + jnp.vdot(y, data.y_ct)
    + jnp.vdot(sums, data.sums_ct)
  )
  return value, (state.total, state.position, y, sums)


@functools.partial(jax.jit, static_argnames=("run", "axis"))
def gradients_and_outputs(inputs, data, run, axis=1):
  """Differentiates the loss, compiled once for each `run` and shape."""
  return jax.grad(loss, has_aux=True)(inputs, data, run, axis)
