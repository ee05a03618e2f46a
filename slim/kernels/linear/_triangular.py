"""The inverse of a unit lower triangular matrix, by halves."""

import math

import jax
import jax.numpy as jnp


@jax.custom_jvp
def unit_lower_inverse(a: jax.Array) -> jax.Array:
  """Computes (1 + A)⁻¹, where A is the part of `a` below the diagonal.

  [[X, 0], [-Y b X, Y]] is the inverse of [[1 + a₁, 0], [b, 1 + a₂]], if X and Y
  are those of the halves on the diagonal. No power of A is formed, which would
  overflow for equal rows: (1 + A)⁻¹ = ∏ (1 + (-A)^(2^i)).

  Args:
    a: [n, L, L]. L is a power of 2.

  Returns:
    [n, L, L], zeros above the diagonal.

  Memory of the derivative: the inverse. dX = -X dA X.
  """
  num, size, _ = a.shape
  # The square blocks on the diagonal, from all of A down to pairs of tokens.
  blocks, below = a[:, None], []
  while blocks.shape[-1] > 1:
    h = blocks.shape[-1] // 2
    below.append(blocks[..., h:, :h])
    halves = jnp.stack([blocks[..., :h, :h], blocks[..., h:, h:]], 2)
    blocks = halves.reshape(num, 2 * halves.shape[1], h, h)
  inverse = jnp.ones_like(blocks)
  for b in reversed(below):
    h = b.shape[-1]
    halves = inverse.reshape(num, b.shape[1], 2, h, h)
    x, y = jnp.moveaxis(halves, 2, 0)
    corner = -_multiply(_multiply(y, b), x)
    inverse = jnp.concatenate(
      [
        jnp.concatenate([x, jnp.zeros_like(x)], -1),
        jnp.concatenate([corner, y], -1),
      ],
      -2,
    )
  return inverse.reshape(num, size, size)


@unit_lower_inverse.defjvp
def _unit_lower_inverse_jvp(primals, tangents):
  inverse = unit_lower_inverse(*primals)
  (a_dot,) = tangents
  product = _multiply(_multiply(inverse, jnp.tril(a_dot, -1)), inverse)
  return inverse, -product


def _multiply(a, b):
  """Products of [..., h, h], with one batch axis: see `decayed_products`."""
  flat = math.prod(a.shape[:-2]), *a.shape[-2:]
  a_flat, b_flat = a.reshape(flat), b.reshape(flat)
  # An inverse amplifies the rounding of TF32 and bfloat16.
  highest = jax.lax.Precision.HIGHEST
  product = jnp.einsum("nij,njk->nik", a_flat, b_flat, precision=highest)
  return product.reshape(a.shape)
