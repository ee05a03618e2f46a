"""Time of a gradient with reversible layers beside that without them.

The models of `reformer_models`: what is not kept has to be computed anew, by
one forward pass more. 4 F become 5 F for SLiM, 3 F become 4 F elsewhere, and
5 F where the MLP goes in chunks, too. In turns in one process.

  python experiments/reversible_time.py [--quick]
"""

import functools

import jax
from absl import flags
from arguments import define_count
from configurations import make_batch
from record import print_table, save
from reformer_models import QUICK_SIZES, SIZES, make_gradient
from timing import median_seconds

from slim import command_line
from slim.training.gradients import COMPILER_OPTIONS

_QUICK = flags.DEFINE_bool("quick", False, "Small models.")
_ROUNDS = define_count("rounds", 5, "Timings of each.")

# What is reversible, the same without it, and the numbers of layers.
PAIRS = (
  ("SLiM × reversible", "SLiM", (3, 12)),
  ("Chunked reversible, by blocks", "Transformer, by blocks", (3,)),
  ("Reformer, all heads at once", "LSH Transformer", (3,)),
  ("Reformer", "LSH Transformer", (3,)),
)


def main() -> None:
  """Measures, prints and saves."""
  rows = []
  for name, without, layers in PAIRS:
    for number in (2,) if _QUICK.value else layers:
      sizes = QUICK_SIZES if _QUICK.value else SIZES
      rows.append(measure(name, without, sizes | {"layers": number}))
      print_table(rows)
  save(f"reversible_time{'_quick' if _QUICK.value else ''}", rows)


def measure(
  name: str, without: str, sizes: dict[str, int]
) -> dict[str, object]:
  """Times a model and the same without reversible layers, in turns."""
  batch = make_batch(sizes["length"])
  programs = []
  for each in (name, without):
    model, gradient = make_gradient(each, sizes)
    keys = jax.random.split(jax.random.key(1), 1) if model.is_random else None
    step = jax.jit(gradient, compiler_options=COMPILER_OPTIONS)
    params = jax.jit(model.init)(jax.random.key(0))
    programs.append(functools.partial(step, params, batch, keys))
  seconds, seconds_without = median_seconds(programs, _ROUNDS.value)
  return {
    "model": name,
    "layers": sizes["layers"],
    "tokens": sizes["length"],
    "seconds": seconds,
    "without": without,
    "seconds_without": seconds_without,
    "ratio": seconds / seconds_without,
  }


if __name__ == "__main__":
  command_line.run(main)
