"""The state of causal linear attention: prefix sums that can be rewound.

`rewind_prefix_sums` subtracts tokens from the sums again. Plain floating-point
sums would come back with an error that grows with every token, so sums that
will be rewound are stored as unevaluated pairs, value + error.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.typing import DTypeLike

from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.products import einsum_f32
from slim.kernels.support.shapes import (
  check_float,
  check_positive_int,
  check_shape,
)


class PrefixSums(NamedTuple):
  """State of causal linear attention after the tokens seen so far.

  Attributes:
    kv: [B, H, M, V], float32 or wider: the sum of k ⊗ v.
    k: [B, H, M], float32 or wider: the sum of k.
    error: The rounding errors of the two sums, as another PrefixSums, or None.
      The sum is `kv + error.kv`, with about twice the digits of `kv`.
  """

  kv: jax.Array
  k: jax.Array
  error: "PrefixSums | None" = None


# `jax.export` serializes functions that take or return it.
export.register_namedtuple_serialization(
  PrefixSums, serialized_name="slim.PrefixSums"
)


def init_prefix_sums(
  batch_size: int,
  num_heads: int,
  num_features: int,
  value_dim: int,
  *,
  dtype: DTypeLike = jnp.float32,
  compensated: bool = False,
) -> PrefixSums:
  """Makes the state before the first token.

  Args:
    batch_size: B.
    num_heads: H.
    num_features: M.
    value_dim: V.
    dtype: Dtype of the sums, float32 or wider.
    compensated: Whether to carry error terms, which double the size of the
      state. Without them `rewind_prefix_sums` is not exact.

  Returns:
    PrefixSums of zeros.
  """
  zeros = PrefixSums(
    jnp.zeros((batch_size, num_heads, num_features, value_dim), dtype),
    jnp.zeros((batch_size, num_heads, num_features), dtype),
  )
  # Not the same arrays twice, because a caller may donate their buffers.
  error = jax.tree.map(jnp.zeros_like, zeros) if compensated else None
  return zeros._replace(error=error)


def token_sums(
  k: jax.Array, v: jax.Array, *, block_size: int = 64
) -> PrefixSums:
  """Sums k ⊗ v and k over tokens: what the tokens add to the state.

  Args:
    k: [B, T, H, M], float. Keys after the feature map.
    v: [B, T, H, V], float. Values.
    block_size: Pass that of the `chunked_linear_attention` of the same tokens.
      Then both compute the same sums, and XLA computes them once.

  Returns:
    PrefixSums without error terms.

  Raises:
    ValueError: If k or v has the wrong shape or dtype, or if `block_size` is
      not a positive integer.
  """
  k, v = jnp.asarray(k), jnp.asarray(v)
  check_shape("k", k, "BTHM", {})
  check_shape("v", v, "BTHV", dict(zip("BTH", k.shape, strict=False)))
  check_float("k", k)
  check_float("v", v)
  updates = block_sums(to_blocks(k, block_size), to_blocks(v, block_size))
  return jax.tree.map(lambda x: x.sum(0), updates)


def add_sums(state: PrefixSums, update: PrefixSums) -> PrefixSums:
  """Adds `update` to `state`; error terms keep about twice the digits.

  Args:
    state: PrefixSums with or without error terms.
    update: PrefixSums without error terms.

  Returns:
    PrefixSums like `state`.

  Raises:
    ValueError: If the shapes of the two differ, or `update` has error terms.

  References:
    Knuth, The Art of Computer Programming, volume 2, section 4.2.2 (two-sum).
  """
  state, update = jax.tree.map(jnp.asarray, (state, update))
  value = state._replace(error=None)
  if update.error is not None:
    raise ValueError(
      "update must have no error terms, as from token_sums, got some: pass it "
      "as state, and add the other sums to it"
    )
  for name in ("kv", "k"):
    expected, found = (getattr(x, name).shape for x in (state, update))
    if expected != found:
      raise ValueError(
        f"update.{name} must have the shape {expected} of state.{name}, got "
        f"{found}"
      )
  update = jax.tree.map(lambda x, like: x.astype(like.dtype), update, value)
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
  # The derivative of value + error is that of the value.
  return total._replace(error=jax.lax.stop_gradient(error))


def rewind_prefix_sums(
  state_after: PrefixSums, update: PrefixSums
) -> PrefixSums:
  """Computes the state before some tokens from the state after them.

  The derivative treats `update` as a constant. If you then add the same tokens
  to the returned state again, you get a function of `state_after` whose
  derivative is that with respect to the state *before* the tokens. So one
  traced forward pass both rewinds and differentiates.

  Args:
    state_after: PrefixSums. With error terms the result is exact to rounding.
      Without them it has an error of about 6e-8 (float32) of the largest sum.
    update: `token_sums` of the tokens to subtract.

  Returns:
    PrefixSums like `state_after`.

  References:
    Likhosherstov et al., 2021 (SLiM), Algorithm 1. It has no error terms.
  """
  minus = jax.tree.map(lambda x: -jax.lax.stop_gradient(x), update)
  return add_sums(state_after, minus)


def sum_values(state: PrefixSums) -> PrefixSums:
  """Returns the sums, corrected by their error terms if there are any."""
  value = state._replace(error=None)
  if state.error is None:
    return value
  error = jax.lax.stop_gradient(state.error)
  return jax.tree.map(jnp.add, value, error)


def to_blocks(x: jax.Array, block_size: int) -> jax.Array:
  """Splits [B, T, H, M] into blocks [n, B, H, block_size, M], zero-padded."""
  batch, length, heads, dim = x.shape
  size = min(check_positive_int("block_size", block_size), length)
  x = jnp.pad(x, ((0, 0), (0, -length % size), (0, 0), (0, 0)))
  x = x.reshape(batch, x.shape[1] // size, size, heads, dim)
  return x.transpose(1, 0, 3, 2, 4)


def block_sums(k: jax.Array, v: jax.Array) -> PrefixSums:
  """Sums k ⊗ v and k over the tokens of each block."""
  dtype = at_least_float32(k.dtype, v.dtype)
  return PrefixSums(
    einsum_f32("nbhtm,nbhtv->nbhmv", k, v), k.sum(-2, dtype=dtype)
  )


def _rounding_error(total, a, b):
  """Returns the exact error of total = fl(a + b), for any order of a and b."""
  b_part = total - a
  return (a - (total - b_part)) + (b - b_part)
