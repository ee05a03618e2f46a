"""How exactly a rewind function returns to earlier states."""

import itertools

import jax
import numpy as np

from slim.certify.distances import distance, norm, relative_distance
from slim.certify.gradients import ScanCall, compile_fast, draw_normal
from slim.kernels.support.cotangents import is_inexact


def rewinding_error(call: ScanCall, chunk_size: int) -> float:
  """Measures how far rewound states are from the states of the forward pass.

  Args:
    call: The call, with policy "rewind".
    chunk_size: C, tokens.

  Returns:
    max_i |rewound_i - state_i| / |state_{i+1}| over the states at the start of
    each chunk.
  """
  assert call.rewind is not None
  step, rewind = compile_fast(call.step), compile_fast(call.rewind)
  first = call.length % chunk_size or chunk_size
  starts = [0, *range(first, call.length, chunk_size)]
  chunks = [
    jax.tree.map(
      lambda x, start=start, end=end: jax.lax.slice_in_dim(
        x, start, end, axis=call.axis
      ),
      call.xs,
    )
    for start, end in itertools.pairwise([*starts, call.length])
  ]
  states = [call.state]
  for chunk in chunks:
    states.append(step(call.params, states[-1], chunk)[0])
  rewound, worst = states[-1], 0.0
  walk = list(zip(states[:-1], states[1:], chunks, strict=True))
  for before, after, chunk in reversed(walk):
    rewound = rewind(call.params, rewound, chunk)[0]
    worst = max(worst, relative_distance(rewound, before, norm(after)))
  return worst


def decay_share(call: ScanCall) -> float:
  """Measures how much of a perturbation of the initial state is lost.

  Args:
    call: The call.

  Returns:
    1 - |change of the last state| / |change of the initial state|, the largest
    over perturbations of one array each. 0 or less if nothing decays.
  """
  step = compile_fast(call.step)
  arrays, structure = jax.tree.flatten(call.state)
  last = step(call.params, call.state, call.xs)[0]
  random = np.random.default_rng(0)
  shares = [0.0]
  for i, x in enumerate(arrays):
    if is_inexact(x) and x.size:
      change = 1e-3 * (1 + norm(x)) * draw_normal(random, x)
      perturbed = jax.tree.unflatten(
        structure, [*arrays[:i], x + change, *arrays[i + 1 :]]
      )
      after = step(call.params, perturbed, call.xs)[0]
      shares.append(1 - distance(after, last) / norm(change))
  return max(shares)
