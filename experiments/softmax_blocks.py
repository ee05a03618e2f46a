"""Time of chunked softmax attention against the sizes of its blocks.

What the defaults of `chunked_softmax_attention` are to be chosen by, on the
device it is run on: causal and not, one head and many, forward and gradient,
each over the time of `jax.nn.dot_product_attention` in the same process.
Medians over rounds in which every size has its turn.

  python experiments/softmax_blocks.py [--quick]
"""

import functools
import itertools
from typing import Any

import jax
from absl import flags
from arguments import define_count
from record import print_table, save
from timing import median_seconds

from slim import command_line
from slim.kernels import chunked_softmax_attention

_QUICK = flags.DEFINE_bool("quick", False, "One head, 1,024 tokens.")
_ROUNDS = define_count("rounds", 3, "Timings of each.")
# Tokens and heads.
_SHAPES = ((1024, 1), (1024, 8), (1024, 64), (4096, 1), (4096, 8))
_Q_SIZES, _K_SIZES = (256, 512, 1024), (512, 1024, 2048)


def main() -> None:
  """Measures, prints and saves."""
  rows = []
  shapes = _SHAPES[:1] if _QUICK.value else _SHAPES
  for shape, is_causal in itertools.product(shapes, (False, True)):
    rows += measure(*shape, is_causal)
    print_table(rows[-len(_Q_SIZES) * len(_K_SIZES) :])
  device = jax.devices()[0].platform
  save(f"softmax_blocks_{device}{'_quick' if _QUICK.value else ''}", rows)


def measure(
  length: int, num_heads: int, is_causal: bool
) -> list[dict[str, Any]]:
  """Times all sizes for one shape, forward and gradient."""
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v, y_ct = (
    jax.random.normal(key, (1, length, num_heads, 64)) for key in keys
  )
  attentions = {None: jax.nn.dot_product_attention} | {
    (q_size, k_size): functools.partial(
      chunked_softmax_attention, q_block_size=q_size, k_block_size=k_size
    )
    for q_size, k_size in itertools.product(_Q_SIZES, _K_SIZES)
  }
  forward, gradient = [], []
  for attend in attentions.values():
    attend = functools.partial(attend, is_causal=is_causal)

    def run(q, k, v, y_ct, attend=attend):
      return jax.vjp(attend, q, k, v)[1](y_ct)

    forward.append(functools.partial(jax.jit(attend), q, k, v))
    gradient.append(functools.partial(jax.jit(run), q, k, v, y_ct))
  forward = median_seconds(forward, _ROUNDS.value)
  gradient = median_seconds(gradient, _ROUNDS.value)
  return [
    {
      "tokens": length,
      "heads": num_heads,
      "is_causal": is_causal,
      "q_block_size": sizes[0],
      "k_block_size": sizes[1],
      "forward_over_jax": forward[i] / forward[0],
      "gradient_over_jax": gradient[i] / gradient[0],
    }
    for i, sizes in enumerate(attentions)
    if sizes is not None
  ]


if __name__ == "__main__":
  command_line.run(main)
