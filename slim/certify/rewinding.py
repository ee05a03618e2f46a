"""How exactly a rewind function returns to earlier states."""

import jax
import jax.numpy as jnp
import numpy as np

from slim.certify.distances import distance, norm, relative_distance
from slim.certify.gradients import ScanCall, compile_fast, draw_normal
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.kernels.support.cotangents import is_inexact


def rewinding_error(call: ScanCall, chunk_size: int) -> float:
  """Measures how far rewound states are from the states of a forward pass.

  The forward pass starts from the state that rewinding ends with. So rows of a
  cache that no token has been written to may hold anything.

  Args:
    call: The call, with policy "rewind".
    chunk_size: C, tokens.

  Returns:
    max_i |rewound_i - state_i| / |rewound_{i+1}| over the states at the start
    of each chunk and at the end; of leaves that are not kept.
  """
  assert call.rewind is not None
  step, rewind = compile_fast(call.step), compile_fast(call.rewind)
  cut = Chunks.of(call.xs, chunk_size, call.axis)
  chunks = [cut.first(call.xs)]
  chunks += [cut.later(call.xs, i) for i in range(cut.num_later)]
  leaves = KeptLeaves.of(call.kept, call.state)

  def walk(state):
    states = [state]
    for chunk in chunks:
      states.append(step(call.params, states[-1], chunk)[0])
    return states

  forward = walk(call.state)
  rewound = [forward[-1]]
  for before, chunk in zip(forward[-2::-1], reversed(chunks), strict=True):
    given = leaves.merge(leaves.select(before), leaves.others(rewound[-1]))
    undone = leaves.others(rewind(call.params, given, chunk)[0])
    rewound.append(leaves.merge(leaves.select(before), undone))
  again = walk(rewound[-1])
  rewound.reverse()
  # The last state of all, and not where rewinding started from: they are one.
  pairs = [
    *zip(rewound[:-1], again[:-1], strict=True),
    (again[-1], rewound[-1]),
  ]
  scales = [*rewound[1:], rewound[-1]]
  return max(
    relative_distance(
      leaves.others(a), leaves.others(b), norm(leaves.others(scale))
    )
    for (a, b), scale in zip(pairs, scales, strict=True)
  )


def decay_share(call: ScanCall) -> float:
  """Measures how much of a perturbation of the initial state is lost.

  Args:
    call: The call.

  Returns:
    1 - |change of the last state| / |change of the initial state|, the largest
    over perturbations of one array each that is not kept. Elements that the
    tokens replace do not count. 0 or less if nothing decays.
  """
  step = compile_fast(call.step)
  arrays, structure = jax.tree.flatten(call.state)
  last = step(call.params, call.state, call.xs)[0]
  random = np.random.default_rng(0)
  shares = [0.0]
  kept = KeptLeaves.of(call.kept, call.state).flags
  for i, x in enumerate(arrays):
    if is_inexact(x) and x.size and not kept[i]:
      change = 1e-3 * (1 + norm(x)) * draw_normal(random, x)
      perturbed = jax.tree.unflatten(
        structure, [*arrays[:i], x + change, *arrays[i + 1 :]]
      )
      after = step(call.params, perturbed, call.xs)[0]
      # Rows of a cache that tokens are written to are replaced, not decayed.
      replaced = jax.tree.leaves(after)[i] == jax.tree.leaves(last)[i]
      scale = norm(jnp.where(replaced, 0, change))
      if scale:
        shares.append(1 - distance(after, last) / scale)
  return max(shares)
