"""Time of a gradient with reversible layers, and without them.

The models are those of `reformer_models`. Let a forward pass take F operations.
Without reversible layers a gradient takes 3 F, and at most 4 F for SLiM.
Reversible layers compute their activations again, which adds F. Their MLP is
computed in chunks, which adds up to F more, except for SLiM. Programs run in
turns in one process.

  python experiments/reversible_time.py [--quick]
"""

import functools

import jax
from arguments import define_count, define_quick
from configurations import make_batch
from measurements import median_seconds
from record import print_table, save
from reformer_models import QUICK_SIZES, SIZES, make_gradient

from slim import command_line
from slim.training.gradients import COMPILER_OPTIONS

_QUICK = define_quick("Small models of 3 layers.")
_ROUNDS = define_count("rounds", 5, "Timings of each program.")

# A reversible model, the same model without it, and the numbers of layers.
PAIRS = (
  ("SLiM × reversible", "SLiM", (3, 12)),
  ("Chunked reversible, by blocks", "Transformer, by blocks", (3,)),
  ("Reformer, all heads at once", "LSH Transformer", (3,)),
  ("Reformer", "LSH Transformer, by head", (3,)),
)


def main() -> None:
  """Measures, prints and saves."""
  rows = []
  for name, without, layers in PAIRS:
    for number in layers[:1] if _QUICK.value else layers:
      sizes = QUICK_SIZES if _QUICK.value else SIZES
      rows.append(measure(name, without, sizes | {"layers": number}))
      print_table(rows)
  save("reversible_time", rows, quick=_QUICK.value)


def measure(
  name: str, without: str, sizes: dict[str, int]
) -> dict[str, object]:
  """Times a model, and the same model without reversible layers."""
  batch = make_batch(sizes["length"])
  programs = {}
  for each in (name, without):
    model, gradient = make_gradient(each, sizes)
    keys = jax.random.split(jax.random.key(1), 1) if model.is_random else None
    step = jax.jit(gradient, compiler_options=COMPILER_OPTIONS)
    params = jax.jit(model.init)(jax.random.key(0))
    programs[each] = functools.partial(step, params, batch, keys)
  seconds = median_seconds(programs, _ROUNDS.value)
  return {
    "model": name,
    "layers": sizes["layers"],
    "tokens": sizes["length"],
    "seconds": seconds[name],
    "without": without,
    "seconds_without": seconds[without],
    "ratio": seconds[name] / seconds[without],
  }


if __name__ == "__main__":
  command_line.run(main)
