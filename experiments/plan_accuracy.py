"""What `slim.plan` predicts, beside what is measured.

For some ways to compute the gradient of a config: the activations by its
formula, as XLA assigns them and as the largest resident size of a process of
its own grows by them in one gradient; and the predicted and measured time over
that of `full`, in turns in one process. Linux, CPU.

  python experiments/plan_accuracy.py [--config=enwik8_slim] [--rounds=3]
"""

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
from absl import app, flags
from configurations import load_config, make_batch
from record import print_table, save
from timing import median_seconds

from slim import experiment, steps
from slim.plan.models import list_rows, with_option
from slim.plan.options import Option

_CONFIG = flags.DEFINE_string("config", "enwik8_slim", "Of configs/.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timings of each.")
_OPTION = flags.DEFINE_string("option", None, "For the processes it starts.")
_CHUNK_SIZES = (64, 256)


def main(argv: list[str]) -> None:
  """Measures, prints and saves."""
  del argv
  config = load_config(_CONFIG.value)
  if _OPTION.value is not None:
    print(
      json.dumps(measure_growth(config, Option(*json.loads(_OPTION.value))))
    )
    return
  planned = [
    row
    for row in list_rows(config)
    if row.option.chunk_size in (None, *_CHUNK_SIZES)
  ]
  seconds = median_seconds(
    [make_program(config, row.option)[0] for row in planned], _ROUNDS.value
  )
  [full] = [
    s
    for row, s in zip(planned, seconds, strict=True)
    if row.option == Option("full", None, None, config.model.reversible)
  ]
  rows = []
  for row, time in zip(planned, seconds, strict=True):
    child = subprocess.run(
      [sys.executable, *sys.argv, f"--option={json.dumps(row.option)}"],
      capture_output=True,
      text=True,
      check=True,
    )
    found = json.loads(child.stdout.splitlines()[-1])
    rows.append(
      {
        "gradient": row.option.name,
        "chunk_size": row.option.chunk_size,
        "formula_MiB": row.formula_bytes / 2**20,
        "compiled_MiB": found["compiled"] / 2**20,
        "resident_MiB": found["resident"] / 2**20,
        "resident_over_compiled": found["resident"] / found["compiled"],
        "formula_over_compiled": row.formula_bytes / found["compiled"],
        "predicted_time": row.time,
        "time": time / full,
        "seconds": time,
      }
    )
    print_table(rows)
  save(f"plan_accuracy_{_CONFIG.value}", rows)


def make_program(config, option):
  """A gradient to call, its activations and the size of its results, bytes."""
  config = with_option(config, option)
  parts = experiment.create_experiment(config)
  params = jax.jit(parts.model.init)(parts.init_key)
  batch = make_batch(config.data.sequence_length)
  batch = jax.tree.map(
    lambda x: jnp.tile(x, (config.train.batch_size, 1)), batch
  )
  step, activations = steps.compile_gradient_step(
    parts.gradient_steps[option.method], params, batch
  )
  outputs = sum(x.nbytes for x in jax.tree.leaves(params))
  return (
    functools.partial(step, params, batch, jnp.int32(0)),
    activations,
    outputs,
  )


def measure_growth(config, option):
  """By how much a gradient lets this process grow, less its results."""
  program, activations, outputs = make_program(config, option)
  jax.block_until_ready(program.args)
  before = status("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak.
  jax.block_until_ready(program())
  return {
    "compiled": activations,
    "resident": status("VmHWM") - before - outputs,
  }


def status(name):
  """A size of this process, in bytes."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(name):
      return int(line.split()[1]) * 1024
  raise ValueError(f"/proc/self/status must have a line {name}, and has none")


if __name__ == "__main__":
  app.run(main)
