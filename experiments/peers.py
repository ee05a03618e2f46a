"""Time, memory and exactness beside what one would write in plain JAX.

All methods compute the gradient of one network (configuration III: width 1024,
3 layers, batch 1, float32) in one process:

- full: plain differentiation of the whole sequence;
- lax.scan(jax.checkpoint): one checkpoint per chunk;
- two-level lax.scan(jax.checkpoint): the same over √N groups of √N chunks;
- the policies of slim.

Activations are the temporary memory as XLA assigns it, at all lengths. Time is
the median over rounds in which every method has its turn. The error is the
largest relative difference of a parameter's gradient from that of full. Both
are measured for C = 512 up to 16,384 tokens, where full fits.

  python experiments/peers.py [--quick]
"""

import functools
from typing import Any

import jax
import numpy as np
from arguments import define_count, define_quick
from baselines import gradient_methods
from configurations import abstract_batch, make_batch, make_model
from measurements import median_seconds, memory_columns
from record import measure_in_stretches, print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.memory.report import report_of

_QUICK = define_quick("A small model, C = 512, two lengths: a minute.")
_ROUNDS = define_count("rounds", 3, "Timings of each program.")
_LENGTHS = (4096, 16384, 65536, 262144, 1048576)
_CHUNK_SIZES = (64, 512)
_LONGEST_RUN = 16384


def main() -> None:
  """Compiles, times, compares, prints and saves."""
  quick = _QUICK.value
  lengths = _LENGTHS[:: len(_LENGTHS) - 1] if quick else _LENGTHS
  rows = measure_in_stretches("peers", lengths, measure, quick=quick)
  print_table(rows)
  save("peers", rows, quick=quick, rounds=_ROUNDS.value)


def measure(length: int) -> list[dict[str, Any]]:
  """Measures all methods at one length.

  Args:
    length: T.

  Returns:
    A row for each method and C. Times and errors are None where they are not
    measured.
  """
  model = make_model("III", _QUICK.value)
  shapes = jax.eval_shape(model.init, jax.random.key(0)), abstract_batch(length)
  rows, compiled = [], {}
  chunk_sizes = _CHUNK_SIZES[1:] if _QUICK.value else _CHUNK_SIZES
  methods = gradient_methods(model, length, chunk_sizes, two_level=True)
  for key, value_and_grad in methods.items():
    compiled[key] = jax.jit(value_and_grad).lower(*shapes).compile()
    rows.append(
      {"tokens": length, "method": key[0], "chunk_size": key[1]}
      | memory_columns(report_of(compiled[key]))
      | {"seconds": None, "over_full": None, "error": None}
    )
  if length > _LONGEST_RUN:
    return rows
  args = model.init(jax.random.key(0)), make_batch(length)
  calls = {
    key: functools.partial(run, *args)
    for key, run in compiled.items()
    if key[1] >= max(_CHUNK_SIZES)
  }
  seconds = median_seconds(calls, _ROUNDS.value)
  full = jax.tree.map(np.asarray, calls["full", length]()[1])
  for row in rows:
    key = row["method"], row["chunk_size"]
    if key in calls:
      row["seconds"] = seconds[key]
      row["over_full"] = seconds[key] / seconds["full", length]
      row["error"] = largest_error(calls[key]()[1], full)
  return rows


if __name__ == "__main__":
  command_line.run(main)
