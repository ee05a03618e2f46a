"""FLOPs of matrix products, counted from the jaxpr."""

import functools

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import chunked_softmax_attention
from slim.targets.matrix_products import (
  MatrixProduct,
  count_matmul_flops,
  list_matrix_products,
)


def attention(x):
  """Two products: [2, 3, 5] with itself, and the result with it again."""
  return jnp.einsum("bts,bsd->btd", jnp.einsum("btd,bsd->bts", x, x), x)


def while_below(stop, x):
  """Calls `attention` in a loop that counts from 0 to `stop`."""
  return jax.lax.while_loop(
    lambda loop: loop[1] < stop,
    lambda loop: (attention(loop[0]), loop[1] + 1),
    (x, jnp.int32(0)),
  )[0]


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
    (lambda x: while_below(3, x), 3 * ATTENTION),
    (lambda x: while_below(x.sum().astype(int), x), ATTENTION),
    (lambda x: x + 1, 0),
  ],
  ids=["plain", "jit", "checkpoint", "vmap", "scan", "cond"]
  + ["while", "unknown while", "none"],
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


@pytest.mark.parametrize(
  ("dtype", "precision", "name"),
  [
    ("float32", "highest", "float32"),
    ("float32", "high", "tensorfloat32"),
    ("float32", None, "default"),
    ("bfloat16", "highest", "bfloat16"),
    ("complex64", None, "float32"),
  ],
)
def test_a_product_is_described(dtype, precision, name):
  """Fails if traffic leaves out an array, or a precision has another rate."""
  shapes = [jax.ShapeDtypeStruct(x, dtype) for x in ((2, 3, 5), (2, 5, 7))]
  [found] = list_matrix_products(
    lambda x, y: jnp.matmul(x, y, precision=precision), *shapes
  )
  size = jnp.dtype(dtype).itemsize
  elements = 2 * (3 * 5 + 5 * 7 + 3 * 7)
  expected = MatrixProduct(1, 2 * 2 * 3 * 5 * 7, size * elements, name)
  assert found == expected


def test_blocks_of_softmax_attention_are_counted():
  """Fails if a loop over blocks counts as one block."""
  x = jax.ShapeDtypeStruct((1, 64, 1, 8), jnp.float32)
  attend = functools.partial(
    chunked_softmax_attention, is_causal=True, q_block_size=16, k_block_size=16
  )
  visible = 4 * 5 // 2
  assert count_matmul_flops(attend, x, x, x) == visible * 2 * (2 * 16 * 16 * 8)
