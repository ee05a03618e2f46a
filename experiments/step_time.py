"""Time of one gradient: full and slim, side by side in one process.

Each repetition times a matrix product and every method in turn, so that all see
the same machine; medians are quoted. Efficiency is the floating-point
operations of the matrix products in the model, 3 F for full, 5 F for sqrt and
4 F for the others, over the time, as a share of the rate of that matrix product
alone.

  python experiments/step_time.py --configurations=II,III,IV
"""

import functools

import jax
import jax.numpy as jnp
from absl import flags
from arguments import define_count, define_names
from baselines import gradient_methods
from configurations import CONFIGURATIONS, make_batch, make_model
from record import print_table, save
from timing import median_seconds

from slim import command_line
from slim.runs.metrics import count_matmul_flops

_NAMES = define_names(
  "configurations", ["II", "III", "IV"], CONFIGURATIONS, "Which."
)
_REPETITIONS = define_count("repetitions", 5, "Timings of each.")
_QUICK = flags.DEFINE_bool("quick", False, "II alone, 3 repetitions.")
_CHUNK_SIZES = (512, 128)


def main() -> None:
  """Measures, prints and saves."""
  quick = _QUICK.value
  repetitions = 3 if quick else _REPETITIONS.value
  for name in ["II"] if quick else _NAMES.value:
    rows = measure(name, repetitions)
    print_table(rows)
    save(f"step_time_{name}{'_quick' if quick else ''}", rows)


def measure(name: str, repetitions: int) -> list[dict[str, object]]:
  """Times all methods of one configuration."""
  model = make_model(name)
  params = model.init(jax.random.key(0))
  batch = make_batch(CONFIGURATIONS[name].sequence_length)
  forward = count_matmul_flops(
    model.apply, params, batch.inputs, model.init_state(1)
  )
  length = CONFIGURATIONS[name].sequence_length
  programs = gradient_methods(model, length, _CHUNK_SIZES)
  calls = {
    key: functools.partial(jax.jit(program), params, batch)
    for key, program in programs.items()
  }
  calls["matmul"], matmul_flops = matrix_product(CONFIGURATIONS[name].width)
  seconds = median_seconds(list(calls.values()), repetitions)
  median = dict(zip(calls, seconds, strict=True))
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
  """The product of the MLP over 1,024 tokens, ten times."""
  x, w = jnp.ones((1024, width)), jnp.ones((width, 4 * width))
  product = jax.jit(jnp.matmul)

  def call():
    for _ in range(10):
      jax.block_until_ready(product(x, w))

  return call, 10 * 2 * 1024 * width * 4 * width


if __name__ == "__main__":
  command_line.run(main)
