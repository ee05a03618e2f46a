"""Time of one gradient: full and slim, side by side in one process.

Each round times a matrix product and every method in turn, so that all of them
see the same machine; the table has medians. Efficiency is the rate of the
model's matrix products, as a share of the rate of that matrix product alone. It
counts 3 F floating-point operations for full, 5 F for sqrt and 4 F for the
other methods, where F is the forward pass. slim has fewer, because it walks
forward for the state alone; so its efficiency is an upper bound.

  python experiments/step_time.py --configurations=II,III,IV
"""

import functools

import jax
import jax.numpy as jnp
from arguments import (
  chosen_configurations,
  define_count,
  define_names,
  define_quick,
)
from baselines import gradient_methods
from configurations import (
  CONFIGURATIONS,
  find_configuration,
  make_batch,
  make_model,
)
from measurements import median_seconds
from record import print_table, save

from slim import command_line
from slim.targets.matrix_products import count_matmul_flops

_NAMES = define_names(
  "configurations", ["II", "III", "IV"], CONFIGURATIONS, "What to measure."
)
_REPETITIONS = define_count("repetitions", 5, "Timings of each program.")
_QUICK = define_quick("A small model, the larger chunk size: half a minute.")
_CHUNK_SIZES = (512, 128)


def main() -> None:
  """Measures, prints and saves."""
  quick = _QUICK.value
  rounds = 3 if quick else _REPETITIONS.value
  for name in chosen_configurations(_NAMES, _QUICK):
    rows = measure(name, rounds)
    print_table(rows)
    save(f"step_time_{name}", rows, quick=quick)


def measure(name: str, rounds: int) -> list[dict[str, object]]:
  """Times all methods of one configuration."""
  model = make_model(name, _QUICK.value)
  params = model.init(jax.random.key(0))
  batch = make_batch(CONFIGURATIONS[name].sequence_length)
  forward = count_matmul_flops(
    model.apply, params, batch.inputs, model.init_state(1)
  )
  length = CONFIGURATIONS[name].sequence_length
  programs = gradient_methods(
    model, length, _CHUNK_SIZES[:1] if _QUICK.value else _CHUNK_SIZES
  )
  calls = {
    key: functools.partial(jax.jit(program), params, batch)
    for key, program in programs.items()
  }
  calls["matmul"], matmul_flops = matrix_product(
    find_configuration(name, _QUICK.value).width
  )
  median = median_seconds(calls, rounds)
  rate = matmul_flops / median.pop("matmul")
  rows = []
  for (method, chunk_size), value in median.items():
    passes = {"full": 3, "slim, sqrt": 5}.get(method, 4)
    rows.append(
      {
        "configuration": name,
        "method": method,
        "chunk_size": chunk_size,
        "seconds": value,
        "over_full": value / median["full", length],
        "efficiency": passes * forward / value / rate,
        "matmul_GFLOP_per_second": rate / 1e9,
      }
    )
  return rows


def matrix_product(width):
  """Returns ten products of the MLP over 1,024 tokens, and their operations."""
  x, w = jnp.ones((1024, width)), jnp.ones((width, 4 * width))
  product = jax.jit(jnp.matmul)

  def call():
    for _ in range(10):
      jax.block_until_ready(product(x, w))

  return call, 10 * 2 * 1024 * width * 4 * width


if __name__ == "__main__":
  command_line.run(main)
