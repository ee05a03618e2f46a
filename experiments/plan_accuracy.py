"""The predictions of `slim.plan`, beside measurements.

For several gradient methods and chunk sizes of a config, it compares the
activations that the plan estimates, those that XLA assigns, and the growth of
this process in one gradient. It also compares the predicted time over that of
`full` with the measured one. It needs Linux, and measures growth on CPUs.

  python experiments/plan_accuracy.py [--config=enwik8_slim] [--rounds=3]
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
from absl import flags
from arguments import CONFIGS, define_count, define_quick
from configurations import load_config, make_batch
from measurements import median_seconds, process_bytes
from record import print_table, save

from slim import command_line
from slim.plan.candidates import with_choice
from slim.plan.from_config import list_estimates
from slim.training import build
from slim.training.compiled import compile_gradient_step

_CONFIG = flags.DEFINE_enum(
  "config", "enwik8_slim", CONFIGS, "File of configs/."
)
_QUICK = define_quick("One layer of width 128, one C: a minute.")
_ROUNDS = define_count("rounds", 3, "Timings of each program.")
_CHUNK_SIZES = (None, 64, 256)


def main() -> None:
  """Measures, prints and saves."""
  quick = _QUICK.value
  config = load_config(_CONFIG.value)
  if quick:
    config.model.update(width=128, num_layers=1, num_heads=2)
  chunk_sizes = _CHUNK_SIZES[::2] if quick else _CHUNK_SIZES
  planned = [
    x for x in list_estimates(config) if x.gradient.chunk_size in chunk_sizes
  ]
  # The largest goes first: it allocates the workspace that all of them use.
  planned.sort(key=lambda x: -x.estimated_bytes)
  rows, programs = [], {}
  for index, candidate in enumerate(planned):
    program, activations = make_program(config, candidate.gradient)
    programs[index] = program
    rows.append(
      {
        "gradient": candidate.gradient.name,
        "chunk_size": candidate.gradient.chunk_size,
        "formula_MiB": candidate.estimated_bytes / 2**20,
        "compiled_MiB": activations / 2**20,
        "resident_MiB": growth(program) / 2**20,
        "predicted_time": candidate.time.relative,
      }
    )
    print_table(rows)
  seconds = median_seconds(programs, 1 if quick else _ROUNDS.value)
  full = next(
    seconds[index]
    for index, row in enumerate(rows)
    if row["gradient"] == "full"
  )
  for index, row in enumerate(rows):
    row.update(time=seconds[index] / full, seconds=seconds[index])
  print_table(rows)
  save(f"plan_accuracy_{_CONFIG.value}", rows, quick=quick)


def make_program(config, choice):
  """Returns a compiled gradient, and its activations in bytes."""
  config = with_choice(config, choice)
  experiment = build.create_experiment(config)
  params = jax.jit(experiment.model.init)(experiment.init_key)
  batch = jax.tree.map(
    lambda x: jnp.tile(x, (config.train.batch_size, 1)),
    make_batch(config.data.sequence_length),
  )
  step, activations = compile_gradient_step(
    experiment.gradient_steps[choice.method], params, batch
  )
  program = functools.partial(step, params, batch, jnp.int32(0))
  return program, activations


def growth(program):
  """Returns the bytes this process grows by in a gradient, without results."""
  before = process_bytes("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets VmHWM.
  results = jax.block_until_ready(program())
  outputs = sum(x.nbytes for x in jax.tree.leaves(results))
  return process_bytes("VmHWM") - before - outputs


if __name__ == "__main__":
  command_line.run(main)
