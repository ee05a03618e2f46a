"""The exact gradient over a million bytes of text, in less than 1 GB.

Trains a model of width 256 with 2 layers on one sequence of 1,048,576 bytes.
Nothing is truncated: the last byte's loss reaches back to the first. Memory is
the largest resident size of this process, including Python and JAX. After it
has been read, the last gradient is computed again with all states stored, and
compared. The script needs Linux.

  python experiments/million_tokens.py --text=FILE
"""

import time

import jax
import numpy as np
import optax
from arguments import (
  define_count,
  define_quick,
  define_text,
  result_name,
  text_path,
)
from configurations import make_batch
from measurements import process_bytes
from record import print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.models import create_model
from slim.training.gradients import make_value_and_grad

_TEXT = define_text("Text file of at least 1.2 MB.")
_TOKENS = define_count("tokens", 2**20, "T, the length of the sequence.")
_CHUNK_SIZE = define_count("chunk_size", 512, "C, tokens in a chunk.")
_QUICK = define_quick("16,384 tokens of a file of slim.")
_STEPS = define_count("steps", 2, "Updates by Adam.")


def main() -> None:
  """Trains, prints and saves."""
  quick = _QUICK.value
  tokens = 2**14 if quick else _TOKENS.value
  chunk_size = _CHUNK_SIZE.value
  model = create_model(
    vocab_size=256, width=256, num_layers=2, num_heads=4, mlp_width=1024
  )
  optimizer = optax.adam(1e-3)
  params = model.init(jax.random.key(0))
  moments = optimizer.init(params)
  batch = make_batch(tokens, text_path(_TEXT, _QUICK))
  shapes = jax.eval_shape(lambda: (params, batch))

  def compiled(policy):
    value_and_grad = make_value_and_grad(
      model, method="slim", chunk_size=chunk_size, policy=policy
    )
    return jax.jit(value_and_grad).lower(*shapes).compile()

  @jax.jit
  def update(params, moments, gradients, weight):
    mean = jax.tree.map(lambda x: x / weight, gradients)
    updates, moments = optimizer.update(mean, moments)
    return optax.apply_updates(params, updates), moments

  value_and_grad, rows = compiled("rewind"), []
  for step in range(_STEPS.value):
    start = time.perf_counter()
    sums, gradients = jax.block_until_ready(value_and_grad(params, batch))
    seconds = time.perf_counter() - start
    rows.append(
      {
        "step": step,
        "bits_per_byte": float(sums.nll / sums.weight) / np.log(2),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "largest_resident_MiB": process_bytes("VmHWM") / 2**20,
      }
    )
    print_table(rows[-1:])
    before = params
    params, moments = update(params, moments, gradients, sums.weight)
  resident = rows[-1]["largest_resident_MiB"] * 2**20
  error = largest_error(gradients, compiled("store")(before, batch)[1])
  activations = value_and_grad.memory_analysis().temp_size_in_bytes / 2**20
  print(
    f"activations {activations:.1f} MiB, largest resident size "
    f"{resident / 1e9:.3f} GB ({'less' if resident < 1e9 else 'NOT less'} than "
    f"1 GB), distance to store {error:.1e}"
  )
  save(
    result_name("million_tokens", _TOKENS, _CHUNK_SIZE, _STEPS),
    rows,
    quick=quick,
    tokens=tokens,
    chunk_size=chunk_size,
    activation_MiB=activations,
    rewind_to_store=error,
  )


if __name__ == "__main__":
  command_line.run(main)
