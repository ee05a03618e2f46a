"""Inputs, forms and the equation for tests of linear attention."""

import functools

import jax
import numpy as np

from slim.kernels import (
  PrefixSums,
  chunked_linear_attention,
  parallel_linear_attention,
  recurrent_linear_attention,
)

B, H, M, V = 2, 3, 4, 5


def in_blocks_of(block_size):
  """The chunked form, with a name for the test's identifier."""
  form = functools.partial(chunked_linear_attention, block_size=block_size)
  form.__name__ = f"blocks_of_{block_size}"
  return form


def random_arguments(length, dtype, compensated=False, sizes=(B, H, M, V)):
  """q, k, v and a state; and cotangents of y and of the final state."""
  random = np.random.default_rng(length)
  batch, heads, features, width = sizes

  def positive(*shape):
    # Not near 0, where the gradient of q cancels.
    return random.uniform(0.1, 1, size=shape).astype(dtype)

  def normal(*shape):
    return random.normal(size=shape).astype(dtype)

  def sums(make):
    shape = (batch, heads, features)
    state = PrefixSums(make(*shape, width), make(*shape))
    if not compensated:
      return state
    return state._replace(error=jax.tree.map(np.zeros_like, state))

  tokens = (batch, length, heads)
  args = (
    positive(*tokens, features),
    positive(*tokens, features),
    normal(*tokens, width),
    sums(positive),
  )
  return args, (normal(*tokens, width), sums(normal))


@functools.cache
def compiled(form, eps, dtype):
  """One function for all calls, so that equal shapes compile once."""

  def run(args, cts):
    (y, state), vjp = jax.vjp(functools.partial(form, eps=eps), *args)
    *token_cts, state_ct = vjp(cts)
    return (y, state.kv, state.k), (*token_cts, state_ct.kv, state_ct.k)

  return jax.jit(run)


def by_form(form, args, cts, eps=1e-16):
  """The same from one of the forms."""
  return compiled(form, eps, args[0].dtype)(args, cts)


THREE_FORMS = [
  parallel_linear_attention,
  recurrent_linear_attention,
  in_blocks_of(4),
]
