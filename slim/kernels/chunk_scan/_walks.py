"""Walk forward over equal chunks for the states, and back for the gradient.

Each walk is a function of

  forward(state, i) -> state_after,
  back(i, state, state_ct, totals)
    -> (state_before, state_ct, totals), (loss, aux),

of chunk i. The leaves of the state that `back` gets are those before the chunk,
except for leaves that are undone: those are after it. The functions take the
number of chunks, the initial state, which of its leaves are kept, the cotangent
of the final state, the totals of gradients before they start, and zeros like
(loss, aux). They return (undone leaves at the start, state_ct, totals, (losses,
auxs)).
"""

import math

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._packing import pack, unpack


def _keep(forward, back, count, state, kept, state_ct, totals, nothing):
  """Keeps some leaves of the state before each chunk; the others are undone."""
  del nothing

  def walk_forward(state, i):
    return forward(state, i), pack(kept.select(state))

  def walk_back(carry, i_and_packed):
    undone, *carry = carry
    i, packed = i_and_packed
    given = kept.merge(unpack(packed, kept.select(state)), undone)
    (before, *carry), outs = back(i, given, *carry)
    return (kept.others(before), *carry), outs

  numbers = jnp.arange(count)
  last, packed = jax.lax.scan(walk_forward, state, numbers)
  carry, outs = jax.lax.scan(
    walk_back,
    (kept.others(last), state_ct, totals),
    (numbers, packed),
    reverse=True,
  )
  return *carry, outs


def _sqrt(forward, back, count, state, kept, state_ct, totals, nothing):
  """Keeps the state before each group of about √N chunks.

  The states within a group are computed again when the walk comes back to it.
  If √N does not divide N, the first group is shorter.
  """
  del kept  # All leaves.
  size = math.isqrt(count - 1) + 1
  num_groups = -(-count // size)
  missing = num_groups * size - count

  def chunks_of(group):
    """The first chunk of a group, and how many there are."""
    first = group * size - missing
    if not missing:
      return first, size  # A loop of known length.
    return jnp.maximum(first, 0), jnp.where(group, size, size - missing)

  def walk_group(state, group):
    first, length = chunks_of(group)
    after = jax.lax.fori_loop(
      0, length, lambda j, state: forward(state, first + j), state
    )
    return after, pack(state)

  def walk_back(carry, group_and_start):
    group, packed = group_and_start
    first, length = chunks_of(group)

    def keep(j, carry):
      state, states = carry
      state = forward(state, first + j - 1)
      return state, _set(states, j, pack(state))

    def undo(k, carry):
      *carry, outs = carry
      j = length - 1 - k
      packed = jax.tree.map(lambda x: x[j], states)
      (_, *carry), out = back(first + j, unpack(packed, state), *carry)
      return *carry, _set(outs, first + j, out)

    _, states = jax.lax.fori_loop(
      1, length, keep, (unpack(packed, state), _repeat(packed, size))
    )
    return jax.lax.fori_loop(0, length, undo, carry)

  _, starts = jax.lax.scan(walk_group, state, jnp.arange(num_groups))
  outs = _repeat(nothing, count)
  carry, _ = jax.lax.scan(
    lambda carry, x: (walk_back(carry, x), None),
    (state_ct, totals, outs),
    (jnp.arange(num_groups), starts),
    reverse=True,
  )
  return [], *carry


def _repeat(tree, count):
  """Stacks `count` copies of each array."""
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), tree)


def _set(stacks, i, tree):
  """Replaces the arrays of index i of a stack."""
  return jax.tree.map(
    lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, x, i, 0),
    stacks,
    tree,
  )


WALKS = {"store": _keep, "sqrt": _sqrt, "rewind": _keep}
