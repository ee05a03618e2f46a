"""Time to trace, lower and compile a gradient, by depth and method.

Where the chunk size divides the length, all chunks share one forward and one
backward program. Elsewhere the short first chunk adds two more. Seconds are
processor time, which other processes change less than the clock. JAX's caches
are cleared before each case.

  python experiments/compile_time.py
"""

import time

import jax
from arguments import define_count, define_quick
from configurations import abstract_batch
from record import print_table, save

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
  measure(1, "full", 64)  # Loads what the first compilation needs.
  rows = [
    measure(depth, method, length)
    for depth in depths
    for length in _LENGTHS
    for method in _METHODS
  ]
  print_table(rows)
  save("compile_time", rows, quick=quick)


def measure(depth: int, method: str, length: int) -> dict[str, object]:
  """Compiles one gradient."""
  model = create_model(
    vocab_size=256,
    width=_WIDTH.value,
    num_layers=depth,
    num_heads=_WIDTH.value // 64,
    mlp_width=4 * _WIDTH.value,
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  batch = abstract_batch(length)
  jax.clear_caches()
  start = time.process_time()
  lowered = jax.jit(make_value_and_grad(model, **_METHODS[method])).lower(
    params, batch
  )
  after_lowering = time.process_time()
  compiled = lowered.compile(COMPILER_OPTIONS)
  end = time.process_time()
  memory = compiled.memory_analysis()
  return {
    "layers": depth,
    "length": length,
    "method": method,
    "lower_seconds": after_lowering - start,
    "compile_seconds": end - after_lowering,
    "seconds": end - start,
    "activation_MiB": memory.temp_size_in_bytes / 2**20,
  }


if __name__ == "__main__":
  command_line.run(main)
