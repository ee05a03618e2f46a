"""Time to compile a gradient and to compute it, by depth and method.

Where the chunk size divides the length, all chunks share one forward and one
backward program. Elsewhere the short first chunk adds two more. Deep models are
measured with and without stacked layers. Seconds are processor time, which
other processes change less than the clock; of a step, the median of three.
JAX's caches are cleared before each case. An interrupted run is continued.

  python experiments/compile_time.py [--quick]
"""

import statistics
import time

import jax
from arguments import define_count, define_quick
from configurations import make_batch
from record import measure_in_stretches, print_table, save

from slim import command_line
from slim.models import create_model
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad

_WIDTH = define_count("width", 256, "D, the width of the model.")
_QUICK = define_quick("3 layers only.")
_DEPTHS = (3, 12, 24)
_CHUNK_SIZE = 256
_LENGTHS = (2048, 2000)
_METHODS = {
  "full": {"method": "full"},
  **{
    f"slim, {policy}": {
      "method": "slim",
      "policy": policy,
      "chunk_size": _CHUNK_SIZE,
    }
    for policy in ("store", "rewind")
  },
}


def main() -> None:
  """Measures, prints and saves."""
  quick = _QUICK.value
  depths = _DEPTHS[:1] if quick else _DEPTHS
  measure((1, False, 64, "full"))  # Loads what the first compilation needs.
  cases = [
    (depth, stacked, length, method)
    for depth in depths
    for stacked in ((False, True) if depth > 3 else (False,))
    for length in _LENGTHS
    for method in _METHODS
  ]
  rows = measure_in_stretches("compile_time", cases, measure, quick=quick)
  print_table(rows)
  save("compile_time", rows, quick=quick)


def measure(case: tuple[int, bool, int, str]) -> list[dict[str, object]]:
  """Compiles one gradient, and computes it."""
  depth, stacked, length, method = case
  model = create_model(
    vocab_size=256,
    width=_WIDTH.value,
    num_layers=depth,
    num_heads=_WIDTH.value // 64,
    mlp_width=4 * _WIDTH.value,
    stack_layers=stacked,
  )
  params = jax.jit(model.init)(jax.random.key(0))
  batch = make_batch(length)
  jax.clear_caches()
  start = time.process_time()
  lowered = jax.jit(make_value_and_grad(model, **_METHODS[method])).lower(
    params, batch
  )
  after_lowering = time.process_time()
  compiled = lowered.compile(COMPILER_OPTIONS)
  end = time.process_time()
  memory = compiled.memory_analysis()
  seconds = []
  for _ in range(1 if _QUICK.value else 4):
    before = time.process_time()
    jax.block_until_ready(compiled(params, batch))
    seconds.append(time.process_time() - before)
  return [
    {
      "layers": depth,
      "stacked": stacked,
      "length": length,
      "method": method,
      "lower_seconds": after_lowering - start,
      "compile_seconds": end - after_lowering,
      "seconds": end - start,
      "step_seconds": statistics.median(seconds[1:] or seconds),
      "activation_MiB": memory.temp_size_in_bytes / 2**20,
    }
  ]


if __name__ == "__main__":
  command_line.run(main)
