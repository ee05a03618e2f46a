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
from tests.helpers import assert_gradients_close

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


def by_equation(q, k, v, state, y_ct, state_ct, eps):
  """The equations of the module, token by token, with gradients.

  Returns:
    y, the final kv and k, and the gradients of q, k, v and the initial kv and
    k, in float64.
  """
  q, k, v, y_ct = (np.moveaxis(np.float64(x), 1, 0) for x in (q, k, v, y_ct))
  sums = [(np.float64(state.kv), np.float64(state.k))]
  y = np.zeros_like(v)
  for t in range(len(q)):
    kv, z = sums[-1]
    kv, z = kv + k[t][..., :, None] * v[t][..., None, :], z + k[t]
    sums.append((kv, z))
    num, den = (q[t][..., None] * kv).sum(-2), (q[t] * z).sum(-1) + eps
    y[t] = num / den[..., None]
  q_ct, k_ct, v_ct = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
  kv_ct, z_ct = np.float64(state_ct.kv), np.float64(state_ct.k)
  for t in reversed(range(len(q))):
    kv, z = sums[t + 1]
    den = (q[t] * z).sum(-1) + eps
    num_ct = y_ct[t] / den[..., None]
    den_ct = -(y_ct[t] * y[t]).sum(-1) / den
    q_ct[t] = (kv * num_ct[..., None, :]).sum(-1) + z * den_ct[..., None]
    kv_ct = kv_ct + q[t][..., :, None] * num_ct[..., None, :]
    z_ct = z_ct + q[t] * den_ct[..., None]
    k_ct[t] = (kv_ct * v[t][..., None, :]).sum(-1) + z_ct
    v_ct[t] = (kv_ct * k[t][..., :, None]).sum(-2)
  y, *token_cts = (np.moveaxis(x, 0, 1) for x in (y, q_ct, k_ct, v_ct))
  return (y, *sums[-1]), (*token_cts, kv_ct, z_ct)


def assert_right(form, args, cts, tol, eps=1e-16):
  """Compares outputs and gradients of a form with the equations."""
  outputs, gradients = by_form(form, args, cts, eps)
  right_outputs, right_gradients = by_equation(*args, *cts, eps)
  for a, b in zip(outputs, right_outputs, strict=True):
    assert_gradients_close(a, b, tol)
  assert_gradients_close(gradients, right_gradients, tol)
