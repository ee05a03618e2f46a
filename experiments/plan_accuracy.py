"""What `slim.plan` predicts, beside what is measured.

For some ways to compute the gradient of a config: the activations by its
formula, as XLA assigns them and as the resident size of this process grows by
them in one gradient; and the predicted and the measured time over that of
`full`, in turns. On CPUs, and Linux.

  python experiments/plan_accuracy.py [--config=enwik8_slim] [--rounds=3]
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
from absl import flags
from arguments import CONFIGS, define_count
from configurations import load_config, make_batch
from record import print_table, save
from timing import median_seconds

from slim import command_line
from slim.plan.candidates import with_option
from slim.plan.from_config import list_rows
from slim.training import (
  build as experiment,
)
from slim.training import (
  steps,
)

_CONFIG = flags.DEFINE_enum("config", "enwik8_slim", CONFIGS, "Of configs/.")
_ROUNDS = define_count("rounds", 3, "Timings of each.")
_CHUNK_SIZES = (None, 64, 256)


def main() -> None:
  """Measures, prints and saves."""
  config = load_config(_CONFIG.value)
  planned = [
    row for row in list_rows(config) if row.option.chunk_size in _CHUNK_SIZES
  ]
  # The largest first, as it brings the workspace that all of them use.
  planned.sort(key=lambda row: -row.formula_bytes)
  rows, programs = [], []
  for row in planned:
    program, activations = make_program(config, row.option)
    programs.append(program)
    rows.append(
      {
        "gradient": row.option.name,
        "chunk_size": row.option.chunk_size,
        "formula_MiB": row.formula_bytes / 2**20,
        "compiled_MiB": activations / 2**20,
        "resident_MiB": growth(program) / 2**20,
        "predicted_time": row.time,
      }
    )
    print_table(rows)
  seconds = median_seconds(programs, _ROUNDS.value)
  full = next(
    time
    for row, time in zip(rows, seconds, strict=True)
    if row["gradient"] == "full"
  )
  for row, time in zip(rows, seconds, strict=True):
    row.update(time=time / full, seconds=time)
  print_table(rows)
  save(f"plan_accuracy_{_CONFIG.value}", rows)


def make_program(config, option):
  """A gradient to call, and its activations in bytes as they are compiled."""
  config = with_option(config, option)
  parts = experiment.create_experiment(config)
  params = jax.jit(parts.model.init)(parts.init_key)
  batch = jax.tree.map(
    lambda x: jnp.tile(x, (config.train.batch_size, 1)),
    make_batch(config.data.sequence_length),
  )
  step, activations = steps.compile_gradient_step(
    parts.gradient_steps[option.method], params, batch
  )
  program = functools.partial(step, params, batch, jnp.int32(0))
  return program, activations


def growth(program):
  """By how much this process grows in a gradient, less the results; bytes."""
  before = status("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak.
  results = jax.block_until_ready(program())
  outputs = sum(x.nbytes for x in jax.tree.leaves(results))
  return status("VmHWM") - before - outputs


def status(name):
  """A size of this process, in bytes."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(name):
      return int(line.split()[1]) * 1024
  raise ValueError(f"/proc/self/status must have a line {name}, and has none")


if __name__ == "__main__":
  command_line.run(main)
