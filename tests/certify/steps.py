"""Steps in plain JAX for tests of certificates."""

import jax
import jax.numpy as jnp
import numpy as np

B, T, D, V = 2, 40, 3, 64


def make_inputs(state_dtype="float32"):
  """Returns params, state and xs for the steps below."""
  random = np.random.default_rng(0)
  arrays = {
    "w": random.normal(size=(D, D)),
    "decay": 0.9 * np.ones(D),
    "out": random.normal(size=(D, V)),
  }
  params = {name: jnp.asarray(x, "float32") for name, x in arrays.items()}
  state = jnp.asarray(random.normal(size=(B, D)), state_dtype)
  xs = {
    name: jnp.asarray(random.normal(size=(B, T, D)), "float32")
    for name in ("x", "target")
  }
  return params, state, xs


def token_updates(params, chunk):
  """Returns what each token adds to the state."""
  return jnp.tanh(chunk["x"] @ params["w"])


def loss(ys, chunk):
  """Sums the squared errors of a chunk."""
  return jnp.square(ys - chunk["target"]).sum().reshape(1, 1)


def add(params, state, chunk, change=lambda x: x):
  """Sums the updates into the state, after `change`."""
  ys = state[:, None] + jnp.cumsum(change(token_updates(params, chunk)), 1)
  return ys[:, -1], loss(ys, chunk)


def subtract(params, after, chunk, step=add, decay=None, forget=False):
  """Undoes `add`, with a `decay`, or without the cotangent (`forget`)."""
  added = token_updates(params, chunk)
  if decay is None:
    before = after - jax.lax.stop_gradient(added.sum(1))
  else:
    factors = decay ** jnp.arange(added.shape[1])[::-1]
    added = jnp.einsum("t,btd->bd", factors, added)
    before = after - jax.lax.stop_gradient(added)
    before = before / decay ** chunk["x"].shape[1]
  if forget:
    before = jax.lax.stop_gradient(before)
  after, out = step(params, before, chunk)
  return before, out, after


def recur(params, state, chunk, decay=None, cut=lambda x: x, ys_of=loss):
  """Runs a decaying recurrence token by token."""
  decay = params["decay"][None] if decay is None else decay

  def token(s, x):
    s = (decay * s + x).astype(s.dtype)
    return s, s

  added = jnp.moveaxis(token_updates(params, chunk), 1, 0)
  state, ys = jax.lax.scan(token, cut(state), added)
  return state, ys_of(jnp.moveaxis(ys, 0, 1).astype(added.dtype), chunk)
