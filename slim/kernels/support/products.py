"""Products of matrices and tensors, summed in float32 or wider."""

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32


def einsum_f32(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes `jnp.einsum(equation, a, b)`, summing in float32 or wider."""
  dtype = at_least_float32(a.dtype, b.dtype)
  return jnp.einsum(equation, a, b, preferred_element_type=dtype)


def matmul_f32(
  a: jax.Array,
  b: jax.Array,
  contracted: tuple[int, int],
  precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
  """Multiplies batches of matrices, summing in float32 or wider.

  `jnp.einsum` may swap the operands and transpose the result back, which copies
  it.

  Args:
    a: [B, G, …, …].
    b: [B, G, …, …].
    contracted: For each operand the axis to sum over, -1 or -2.
    precision: As in `jax.lax.dot_general`.

  Returns:
    [B, G, the other axis of a, the other axis of b].
  """
  dtype = at_least_float32(a.dtype, b.dtype)
  axes = (contracted[0] + 4,), (contracted[1] + 4,)
  return jax.lax.dot_general(
    a,
    b,
    (axes, ((0, 1), (0, 1))),
    precision=precision,
    preferred_element_type=dtype,
    out_sharding=_summed(a, b, contracted),
  )


def _summed(a, b, contracted):
  """The sharding of a product that sums over devices; None: JAX knows it."""
  shardings = jax.typeof(a).sharding, jax.typeof(b).sharding
  if shardings[0].spec[contracted[0]] is None:
    return None
  # The free axis is the other of -1 and -2, which sum to -3.
  free = (
    x.spec[-3 - axis] for x, axis in zip(shardings, contracted, strict=True)
  )
  spec = jax.sharding.PartitionSpec(*shardings[0].spec[:2], *free)
  return jax.sharding.NamedSharding(shardings[0].mesh, spec)
