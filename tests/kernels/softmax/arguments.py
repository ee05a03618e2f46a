"""Arguments of softmax attention that tests change one at a time."""

import functools

import jax
import jax.numpy as jnp

from slim.kernels import chunked_softmax_attention, softmax_attention

KEYS = jax.random.split(jax.random.key(3), 2)
SHAPES = {"q": (2, 5, 4, 8), "k": (2, 6, 2, 8), "v": (2, 6, 2, 8)}


def zeros(**changes):
  """Arguments of some shape."""
  return {name: jnp.zeros(x) for name, x in (SHAPES | changes).items()}


def in_blocks(backward):
  """The chunked form."""
  return functools.partial(
    chunked_softmax_attention,
    q_block_size=3,
    k_block_size=4,
    backward=backward,
  )


FORMS = {
  "whole": softmax_attention,
  "from_lse": in_blocks("from_lse"),
  "remat": in_blocks("remat"),
}
