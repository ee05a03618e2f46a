"""Attention of jax-linear-attention, which chooses its kernels itself."""

import functools

import jax.numpy as jnp
from jax_passes import compile_passes, relu_features
from jla.ops import linear_attention

PACKAGES = ("jax-linear-attention", "jax", "jaxlib")


def load(name, settings, inputs):
  """Compiles both passes; settings["kind"] is its name of a recurrence."""
  del name
  *arrays, y_ct = map(jnp.asarray, inputs.values())
  if settings:
    function = functools.partial(gated, settings["kind"])
    return compile_passes(function, [], arrays, y_ct)
  return compile_passes(attend, arrays[:1], arrays[1:], y_ct)


def attend(projection, q, k, v):
  """Causal linear attention with the features of performer-pytorch."""
  q, k = (relu_features(projection, x) for x in (q, k))
  # It does not normalise. A value that is always 1 gives the normaliser.
  v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
  y = gated("simple_gla", q, k, v, jnp.zeros(q.shape[:3]))
  return y[..., :-1] / (y[..., -1:] + 1e-6)


def gated(kind, q, k, v, log_decay, beta=None):
  """Linear attention with decay, and with the delta rule if there is a beta."""
  gates = {"g": log_decay} | ({} if beta is None else {"beta": beta})
  return linear_attention(kind, q, k, v, scale=1.0, **gates)[0]
