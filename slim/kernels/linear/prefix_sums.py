"""The state of causal linear attention: sums that can be added to and undone.

`rewind_prefix_sums` takes tokens out of the sums again. Plain floating-point
sums come back with an error that grows with every token, so sums meant for
rewinding are kept as unevaluated pairs, value + error.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.products import einsum_f32
from slim.kernels.support.shapes import (
  check_float,
  check_positive_int,
  check_shape,
)


class PrefixSums(NamedTuple):
  """All that causal linear attention remembers of the tokens so far.

  Attributes:
    kv: [B, H, M, V], float32 or wider: the sum of k ⊗ v.
    k: [B, H, M], float32 or wider: the sum of k.
    error: None, or the rounding errors of the two sums above, themselves a
      PrefixSums: the exact sum is `kv + error.kv` to about twice the digits.
  """

  kv: jax.Array
  k: jax.Array
  error: "PrefixSums | None" = None


def init_prefix_sums(
  batch_size: int,
  num_heads: int,
  num_features: int,
  value_dim: int,
  *,
  dtype=jnp.float32,
  compensated: bool = False,
) -> PrefixSums:
  """Makes the sums over no tokens at all.

  Args:
    batch_size: B.
    num_heads: H.
    num_features: M.
    value_dim: V.
    dtype: Of the sums; float32 or wider.
    compensated: Whether to carry error terms, which `rewind_prefix_sums` needs
      to be exact. They double the size of the state.

  Returns:
    PrefixSums of zeros.
  """
  zeros = PrefixSums(
    jnp.zeros((batch_size, num_heads, num_features, value_dim), dtype),
    jnp.zeros((batch_size, num_heads, num_features), dtype),
  )
  # A second set of arrays, not the same one twice: buffers may be donated.
  error = jax.tree.map(jnp.zeros_like, zeros) if compensated else None
  return zeros._replace(error=error)


def token_sums(
  k: jax.Array, v: jax.Array, *, block_size: int = 64
) -> PrefixSums:
  """Sums k ⊗ v and k over the tokens given: what they add to the state.

  Args:
    k: [B, T, H, M], float. Keys after the feature map.
    v: [B, T, H, V], float. Values.
    block_size: The block of the `chunked_linear_attention` beside it: with
      the same block the same sum is formed in the same order, and XLA forms
      it once.

  Returns:
    PrefixSums without error terms.

  Raises:
    ValueError: If k or v has another shape or type, or `block_size` is not a
      positive integer.
  """
  k, v = jnp.asarray(k), jnp.asarray(v)
  check_shape("k", k, "BTHM", {})
  check_shape("v", v, "BTHV", dict(zip("BTH", k.shape, strict=False)))
  check_float("k", k)
  check_float("v", v)
  updates = block_sums(blocks(k, block_size), blocks(v, block_size))
  return jax.tree.map(lambda x: x.sum(0), updates)


def add_sums(state: PrefixSums, update: PrefixSums) -> PrefixSums:
  """Adds `update` to `state`, exactly where the state carries error terms.

  Args:
    state: PrefixSums with or without error terms.
    update: PrefixSums without error terms.

  Returns:
    PrefixSums like `state`.

  Raises:
    ValueError: If the shapes of the two differ.

  References:
    Knuth, The Art of Computer Programming, volume 2, section 4.2.2 (two-sum).
  """
  state, update = jax.tree.map(jnp.asarray, (state, update))
  value = state._replace(error=None)
  for name in ("kv", "k"):
    expected, found = (getattr(x, name).shape for x in (state, update))
    if expected != found:
      raise ValueError(
        f"update.{name} must have the shape {expected} of state.{name}, got "
        f"{found}"
      )
  update = jax.tree.map(
    lambda x, like: x.astype(like.dtype), update._replace(error=None), value
  )
  total = jax.tree.map(jnp.add, value, update)
  if state.error is None:
    return total
  error = jax.tree.map(
    lambda e, s, a, b: e + _rounding_error(s, a, b),
    state.error,
    total,
    value,
    update,
  )
  # The error is a constant to the derivative: d(value + error) = d value.
  return total._replace(error=jax.lax.stop_gradient(error))


def rewind_prefix_sums(
  state_after: PrefixSums, update: PrefixSums
) -> PrefixSums:
  """Takes tokens out of the sums again: the state before from the state after.

  The update is a constant to the derivative. So whoever continues from the
  returned state, and adds the same tokens again, computes a function of
  `state_after` whose derivative is the derivative with respect to the state
  *before* the tokens: one traced forward pass serves to undo and to
  differentiate.

  Args:
    state_after: PrefixSums; with error terms it is undone to rounding, without
      them an error of about 6e-8 (float32) of the largest sum stays behind.
    update: `token_sums` of the tokens to take out.

  Returns:
    PrefixSums like `state_after`.

  References:
    Likhosherstov et al., 2021 (SLiM), Algorithm 1; the pairs are ours.
  """
  minus = jax.tree.map(lambda x: -jax.lax.stop_gradient(x), update)
  return add_sums(state_after, minus)


def sum_values(state: PrefixSums) -> PrefixSums:
  """The sums themselves, with what is known of their rounding error."""
  value = state._replace(error=None)
  if state.error is None:
    return value
  error = jax.lax.stop_gradient(state.error)
  return jax.tree.map(jnp.add, value, error)


def blocks(x, block_size):
  """Cuts [B, T, H, M] into blocks [n, B, H, block_size, M], zero-padded."""
  batch, length, heads, dim = x.shape
  size = min(check_positive_int("block_size", block_size), length)
  x = jnp.pad(x, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
  x = x.reshape(batch, x.shape[1] // size, size, heads, dim)
  return x.transpose(1, 0, 3, 2, 4)


def block_sums(k, v):
  """Sums k ⊗ v and k over the tokens of each block."""
  dtype = at_least_float32(k.dtype, v.dtype)
  return PrefixSums(
    einsum_f32("nbhtm,nbhtv->nbhmv", k, v), k.sum(-2, dtype=dtype)
  )


def _rounding_error(total, a, b):
  """The exact error of total = fl(a + b), whichever of a and b is larger."""
  b_part = total - a
  return (a - (total - b_part)) + (b - b_part)
