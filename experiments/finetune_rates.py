"""Learning rates for one step of fine-tuning: what finetune.py would show.

The SLiM paper chose its rate, 0.01, on other random sequences than those of its
table. This compares rates likewise, with the gradient of `full`: on how many
sequences is the second half easier to predict after the step on the first half,
and by how much?

--run is a run of learning_curves.py.

  python experiments/finetune_rates.py --run=runs/learning_curves/ptb-full
  python experiments/finetune_rates.py --run=runs/learning_curves/enwik8-full \
    --sequences=30
"""

import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arguments import define_count, define_quick
from finetune_steps import (
  define_run,
  make_adaptation,
  make_score,
  restore,
  trained_run,
)
from record import COMMIT, join_commits, print_table, save
from training_runs import checksum

from slim import command_line
from slim.training import build
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad

_RUN = define_run()
_SEQUENCES = define_count("sequences", 100, "Sequences.")
_QUICK = define_quick("8 short sequences and a small model: half a minute.")
_RATES = (0.03, 0.01, 0.003, 0.001, 0.0003)
_FIRST = 1_000_000  # Far from the sequences of finetune.py.


def main() -> None:
  """Adapts with all rates, prints and saves."""
  with tempfile.TemporaryDirectory() as folder:
    run = trained_run(_RUN, _QUICK, pathlib.Path(folder))
    measure(run, 8 if _QUICK.value else _SEQUENCES.value)


def measure(run: str, num_sequences: int) -> None:
  """Adapts on each sequence with all rates, and saves a row for each rate."""
  pretrained = restore(run)
  config, params = pretrained.config, pretrained.params
  score = make_score(pretrained.model, config.gradient.chunk_size)
  before = jax.jit(score)
  adapt = jax.jit(
    make_adaptation(
      make_value_and_grad(pretrained.model, method="full"), score
    ),
    compiler_options=COMPILER_OPTIONS,
  )
  dataset = build.create_split(config, "validation", batch_size=1)
  rates, bits = jnp.array(_RATES), []
  with jax.default_matmul_precision(config.matmul_precision):
    for number in range(num_sequences):
      batch = dataset.batch(_FIRST + number)
      found = before(params, batch), *adapt(params, batch, rates)
      bits.append([float(x) for x in found])
      if number % 10 == 9:
        print(f"{number + 1} of {num_sequences} sequences", flush=True)
  commit = join_commits([*pretrained.commits, COMMIT])
  rows = [row | {"commit": commit} for row in summarize(np.array(bits))]
  print_table(rows)
  save(
    f"finetune_rates_{config.data.name}",
    rows,
    quick=_QUICK.value,
    data=dataset.description,
    trained_steps=pretrained.step,
    sequences=num_sequences,
    weights=checksum(params),
  )


def summarize(bits: np.ndarray) -> list[dict[str, Any]]:
  """Makes a row for each rate.

  Args:
    bits: [sequences, 1 + rates], before the step, and after it for each rate.

  Returns:
    Rows: means of the bits per byte, and how the sequences differ.
  """
  before = bits[:, 0]
  return [
    {
      "learning_rate": rate,
      "bpc_before": float(before.mean()),
      "bpc_after": float(after.mean()),
      "median_change": float(np.median(after - before)),
      "largest_change": float((after - before).max()),
      "share_better": float((after < before).mean()),
    }
    for rate, after in zip(_RATES, bits[:, 1:].T, strict=True)
  ]


if __name__ == "__main__":
  command_line.run(main)
