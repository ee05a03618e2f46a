"""Time of chunked softmax attention against its block sizes.

The defaults of `chunked_softmax_attention` follow from these times on the
device that runs this script: causal and not, one head and many, forward and
gradient, each over the time of `jax.nn.dot_product_attention` in the same
process. Medians over rounds in which every size has its turn.

  python experiments/softmax_blocks.py [--quick]
"""

import functools
import itertools
from typing import Any

import jax
from arguments import define_count, define_quick
from baselines import gradient_of
from configurations import random_arrays
from measurements import median_seconds
from record import measure_in_stretches, print_table, save

from slim import command_line
from slim.kernels import chunked_softmax_attention

_QUICK = define_quick("One head, 1,024 tokens.")
_ROUNDS = define_count("rounds", 3, "Timings of each program.")
# Tokens and heads.
_SHAPES = ((1024, 1), (1024, 8), (1024, 64), (4096, 1), (4096, 8))
_Q_SIZES, _K_SIZES = (256, 512, 1024), (512, 1024, 2048)


def main() -> None:
  """Measures, prints and saves."""
  quick = _QUICK.value
  name = f"softmax_blocks_{jax.devices()[0].platform}"
  cases = itertools.product(_SHAPES[:1] if quick else _SHAPES, (False, True))
  rows = measure_in_stretches(name, cases, measure, quick=quick)
  print_table(rows)
  save(name, rows, quick=quick)


def measure(case: tuple[tuple[int, int], bool]) -> list[dict[str, Any]]:
  """Times all sizes for one shape, forward and gradient."""
  (length, num_heads), is_causal = case
  *qkv, y_ct = random_arrays(4, (1, length, num_heads, 64))
  attentions = {None: jax.nn.dot_product_attention} | {
    (q_size, k_size): functools.partial(
      chunked_softmax_attention, q_block_size=q_size, k_block_size=k_size
    )
    for q_size, k_size in itertools.product(_Q_SIZES, _K_SIZES)
  }
  forward, gradient = {}, {}
  for sizes, attend in attentions.items():
    attend = functools.partial(attend, is_causal=is_causal)
    forward[sizes] = functools.partial(jax.jit(attend), *qkv)
    gradient[sizes] = functools.partial(
      jax.jit(gradient_of(attend)), *qkv, y_ct
    )
  forward = median_seconds(forward, _ROUNDS.value)
  gradient = median_seconds(gradient, _ROUNDS.value)
  return [
    {
      "tokens": length,
      "heads": num_heads,
      "is_causal": is_causal,
      "q_block_size": sizes[0],
      "k_block_size": sizes[1],
      "forward_over_jax": forward[sizes] / forward[None],
      "gradient_over_jax": gradient[sizes] / gradient[None],
    }
    for sizes in attentions
    if sizes is not None
  ]


if __name__ == "__main__":
  command_line.run(main)
