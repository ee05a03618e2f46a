"""Activation memory of one gradient against the length of the sequence.

Width 1024, 3 layers, batch 1, float32. Compiled, not run: the temporary memory
of value_and_grad as XLA assigns it, beside which stand the weights, the
gradients and the tokens. Needs no memory itself, so a gradient of 400 GiB can
be measured on a laptop.

  python experiments/memory_vs_length.py
"""

import jax
from absl import flags
from baselines import gradient_methods
from configurations import abstract_batch, make_model
from record import print_table, save

from slim import command_line

_QUICK = flags.DEFINE_bool("quick", False, "Two lengths, one chunk size.")


def main() -> None:
  """Compiles, prints and saves."""
  quick = _QUICK.value
  lengths = (4096, 65536) if quick else (4096, 16384, 65536, 262144, 1048576)
  chunk_sizes = (64,) if quick else (64, 512)
  model = make_model("III")
  rows = []
  for length in lengths:
    methods = gradient_methods(model, length, chunk_sizes)
    for (name, chunk_size), value_and_grad in methods.items():
      rows.append(measure(model, value_and_grad, length, name, chunk_size))
  print_table(rows)
  save("memory_vs_length_quick" if quick else "memory_vs_length", rows)


def measure(model, value_and_grad, length, name, chunk_size):
  """Compiles one gradient and reads what it needs."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  lowered = jax.jit(value_and_grad).lower(params, abstract_batch(length))
  memory = lowered.compile().memory_analysis()
  return {
    "tokens": length,
    "method": name,
    "chunk_size": chunk_size,
    "activation_MiB": memory.temp_size_in_bytes / 2**20,
    "arguments_MiB": memory.argument_size_in_bytes / 2**20,
    "outputs_MiB": memory.output_size_in_bytes / 2**20,
  }


if __name__ == "__main__":
  command_line.run(main)
