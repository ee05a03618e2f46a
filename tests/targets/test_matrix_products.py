"""FLOPs of matrix products, counted from the jaxpr."""

import jax
import jax.numpy as jnp
import pytest

from slim.targets.matrix_products import count_matmul_flops


def attention(x):
  """Two products: [2, 3, 5] with itself, and the result with it again."""
  return jnp.einsum("bts,bsd->btd", jnp.einsum("btd,bsd->bts", x, x), x)


ATTENTION = 2 * (2 * 3 * 3 * 5) * 2


@pytest.mark.parametrize(
  ("function", "expected"),
  [
    (attention, ATTENTION),
    (jax.jit(attention), ATTENTION),
    (jax.checkpoint(attention), ATTENTION),
    (jax.vmap(lambda x: x @ x.T), 2 * (2 * 3 * 3 * 5)),
    (
      lambda x: jax.lax.scan(lambda c, _: (attention(c), None), x, length=7),
      7 * ATTENTION,
    ),
    (
      lambda x: jax.lax.cond(x[0, 0, 0] > 0, attention, jax.jit(attention), x),
      ATTENTION,
    ),
    (lambda x: x + 1, 0),
  ],
  ids=["plain", "jit", "checkpoint", "vmap", "scan", "cond", "none"],
)
def test_matmul_flops_are_counted(function, expected):
  """Fails if the reported FLOPs per second omit or double a product."""
  x = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
  assert count_matmul_flops(function, x) == expected


def test_matmul_flops_of_a_custom_vjp_are_counted():
  """Fails if a kernel with a derivative of its own counts as nothing."""
  function = jax.custom_vjp(attention)
  function.defvjp(lambda x: (attention(x), x), lambda x, ct: (ct,))
  x = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32)
  assert count_matmul_flops(function, x) == ATTENTION
