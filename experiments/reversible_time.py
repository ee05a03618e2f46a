"""Time of a gradient with reversible layers beside that without them.

The models of `reformer_models`: what is not kept has to be computed anew, by
one forward pass more, but SLiM does that anyway. In turns in one process.

  python experiments/reversible_time.py [--quick]
"""

import functools

import jax
from absl import app, flags
from configurations import make_batch
from record import print_table, save
from reformer_models import QUICK_SIZES, SIZES, make_gradient
from timing import median_seconds

from slim.gradients import COMPILER_OPTIONS

_QUICK = flags.DEFINE_bool("quick", False, "Small models.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each.")
_LAYERS = (3, 12)

# What is reversible, and the same without it.
PAIRS = {
  "SLiM × reversible": "SLiM",
  "Chunked reversible, by blocks": "Transformer, by blocks",
  "Reformer, all heads at once": "LSH Transformer",
  "Reformer": "LSH Transformer",
}


def main(argv: list[str]) -> None:
  """Measures, prints and saves."""
  del argv
  sizes = dict(QUICK_SIZES if _QUICK.value else SIZES)
  rows = []
  for layers in (2,) if _QUICK.value else _LAYERS:
    rows += measure(sizes | {"layers": layers})
    print_table(rows)
  save(f"reversible_time{'_quick' if _QUICK.value else ''}", rows)


def measure(sizes: dict[str, int]) -> list[dict[str, object]]:
  """Times all models of one number of layers."""
  batch = make_batch(sizes["length"])
  names = [*dict.fromkeys([*PAIRS.values(), *PAIRS])]
  programs = []
  for name in names:
    model, gradient = make_gradient(name, sizes)
    keys = jax.random.split(jax.random.key(1), 1) if model.is_random else None
    step = jax.jit(gradient, compiler_options=COMPILER_OPTIONS)
    params = model.init(jax.random.key(0))
    programs.append(functools.partial(step, params, batch, keys))
  seconds = dict(
    zip(names, median_seconds(programs, _ROUNDS.value), strict=True)
  )
  return [
    {
      "model": name,
      "layers": sizes["layers"],
      "tokens": sizes["length"],
      "seconds": value,
      "over_the_same_without": value / seconds[PAIRS.get(name, name)],
    }
    for name, value in seconds.items()
  ]


if __name__ == "__main__":
  app.run(main)
