"""No loop of chunked softmax attention copies arrays of the whole sequence."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import chunked_softmax_attention
from tests.helpers import AS_USERS
from tests.kernels.programs import copies_in_loops

T, K = 512, 16


@pytest.mark.slow
@pytest.mark.parametrize(
  ("heads", "block_size"),
  [(2, 64), (1, 64), (2, 256)],
  ids=["two heads at once", "one head", "heads in turn"],
)
def test_no_loop_copies_a_sum(heads, block_size):
  """Fails if each pair of blocks costs a copy of all gradients."""

  def loss(q, k, v):
    y = chunked_softmax_attention(
      q,
      k,
      v,
      is_causal=True,
      q_block_size=block_size,
      k_block_size=block_size,
    )
    return (y * y).sum()

  x = jax.ShapeDtypeStruct((1, T, heads, K), jnp.float32)
  gradient = jax.grad(loss, argnums=(0, 1, 2))
  compiled = jax.jit(gradient, compiler_options=AS_USERS).lower(x, x, x)
  copies = copies_in_loops(compiled.compile().as_text(), T * heads * K)
  assert not copies, copies
