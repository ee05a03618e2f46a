"""Heads in turn on CPUs, all heads at once elsewhere.

A block of scores of all heads does not fit the cache of a CPU, and one of one
head is work enough for it. An accelerator needs the heads as a batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.softmax._blocks import Blocks, Inputs
from slim.kernels.softmax._grid import Heads
from slim.kernels.support.explicit_meshes import is_sharded

# Scores in a block of one head. With fewer, many heads take less time at once.
_ENOUGH = 2**16


def for_all_heads(
  fn: Callable[..., Any],
  blocks: Blocks,
  inputs: Inputs,
  totals: Any,
  *arrays: Any,
) -> Any:
  """Computes `fn(inputs.heads, totals, inputs, *arrays)`.

  On a CPU the heads take turns, if they and the sequences differ only in q, k
  and v: if masks and biases are the same for all, and there is no dropout.

  Args:
    fn: Adds what it computes for some heads to `totals`.
    blocks: The static part.
    inputs: The arrays of the attention.
    totals: Pytree of arrays, the sums of no heads.
    *arrays: Pytrees of arrays.

  Returns:
    The totals of all heads.
  """
  heads = inputs.heads
  num_turns = heads.num_sequences * heads.num_heads
  heads_per_group = heads.num_heads // heads.num_groups

  def at_once(totals, *args):
    return fn(heads, totals, *args)

  def in_turn(totals, *args):
    def turn(n, totals):
      n = jnp.int32(n)
      head = n % heads.num_heads
      one = Heads(1, 1, 1, n // heads.num_heads, head, head // heads_per_group)
      return fn(one, totals, *args)

    return jax.lax.fori_loop(0, num_turns, turn, totals)

  args = totals, inputs, *arrays
  if num_turns == 1 or not _can_take_turns(blocks, inputs):
    return at_once(*args)
  return jax.lax.platform_dependent(*args, cpu=in_turn, default=at_once)


def _can_take_turns(blocks, inputs):
  terms = jax.tree.leaves(blocks.make_terms.out)
  return (
    blocks.grid.rows.size * blocks.grid.columns.size >= _ENOUGH
    and blocks.dropout_scale is None
    and all(x.shape[:2] == (1, 1) for x in terms)
    and not is_sharded(inputs.q)
  )
