"""The counterparts in slim and in JAX; runs in slim's own environment."""

import functools

import jax
import jax.numpy as jnp
from jax_passes import compile_passes, relu_features

from slim.kernels import (
  chunked_gated_linear_attention,
  chunked_linear_attention,
  chunked_softmax_attention,
  init_gated_state,
  init_prefix_sums,
  lsh_attention,
)

PACKAGES = ("jax", "jaxlib")


def load(name, settings, inputs):
  """Compiles both passes of an implementation."""
  *arrays, y_ct = map(jnp.asarray, inputs.values())
  num_fixed, function = _FUNCTIONS[name]
  return compile_passes(
    functools.partial(function, **settings),
    arrays[:num_fixed],
    arrays[num_fixed:],
    y_ct,
  )


def linear(projection, q, k, v):
  """Causal linear attention with the features of performer-pytorch."""
  q, k = (relu_features(projection, x) for x in (q, k))
  state = init_prefix_sums(*q.shape[::2], len(projection), v.shape[-1])
  return chunked_linear_attention(q, k, v, state, eps=1e-6)[0]


def gated(q, k, v, log_decay, beta=None):
  """Linear attention with decay, and with the delta rule if there is a beta."""
  state = init_gated_state(*q.shape[::2], q.shape[-1], v.shape[-1])
  erase = None
  if beta is not None:
    v, erase = (beta[..., None] * x for x in (v, k))
  y, _ = chunked_gated_linear_attention(q, k, v, log_decay, state, erase=erase)
  return y


def lsh(buckets, x, qk_kernel, v_kernel, *, heads, chunk_size, is_causal):
  """LSH attention after projections, as Hugging Face's module has them."""
  qk, v = (
    (x @ kernel).reshape(*x.shape[:2], heads, -1)
    for kernel in (qk_kernel, v_kernel)
  )
  y = lsh_attention(
    qk,
    v,
    buckets,
    chunk_size=chunk_size,
    scale=1.0,
    is_causal=is_causal,
    count_once=False,
  )
  return y.reshape(x.shape)


# How many of the arrays have no gradient, and the function.
_FUNCTIONS = {
  "slim, softmax": (0, chunked_softmax_attention),
  "slim, linear": (1, linear),
  **{f"slim, {name}": (0, gated) for name in ("SSD", "GLA", "GDN", "KDA")},
  "slim, LSH": (1, lsh),
  "jax.nn": (0, jax.nn.dot_product_attention),
}
