"""Time, memory and compile time of gated linear attention.

Value and gradient of all arguments of one kernel: B = 1, T = 4,096, 8 heads of
64, float32. `chunked_linear_attention`, without decay, is what the others are
compared with:

- head, channel: a decay of each head, or of each key channel (Mamba-2, GLA);
- GDN, KDA: the same with the delta rule.

Time is the median of rounds in which all kernels take turns: seconds of the
clock and of the processor. Temporary memory is that of the compiled program,
compile time that of the processor.

  python experiments/recurrences.py [--quick]
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arguments import define_count, define_quick
from configurations import random_arrays
from record import print_table, save

from slim import command_line
from slim.kernels import (
  chunked_gated_linear_attention,
  chunked_linear_attention,
  init_gated_state,
  init_prefix_sums,
)

_QUICK = define_quick("512 tokens: half a minute.")
_ROUNDS = define_count("rounds", 9, "Timings of each kernel.")
_HEADS, _WIDTH = 8, 64


def main() -> None:
  """Compiles, times, prints and saves."""
  length = 512 if _QUICK.value else 4096
  rows, calls = [], {}
  for name, (kernel, args) in make_kernels(length).items():
    start = time.process_time()
    gradient = jax.value_and_grad(
      functools.partial(_loss, kernel), argnums=tuple(range(len(args)))
    )
    compiled = jax.jit(gradient).lower(*args).compile()
    compile_seconds = time.process_time() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    calls[name] = functools.partial(compiled, *args)
    rows.append(
      {
        "kernel": name,
        "KiB_per_token": memory / length / 2**10,
        "compile_seconds": compile_seconds,
      }
    )
  clock, processor = time_in_turns(calls, _ROUNDS.value)
  for row in rows:
    for what, seconds in (("clock", clock), ("processor", processor)):
      found = seconds[row["kernel"]]
      row[f"{what}_us_per_token"] = found / length * 1e6
      row[f"{what}_over_ungated"] = found / seconds["ungated"]
  print_table(rows)
  save(
    "recurrences",
    rows,
    quick=_QUICK.value,
    tokens=length,
    rounds=_ROUNDS.value,
  )


def make_kernels(length: int) -> dict[str, tuple[Any, list[jax.Array]]]:
  """Makes each kernel, a function of arrays, and its arrays."""
  shape = 1, length, _HEADS, _WIDTH
  q, k, v, erase, drawn = random_arrays(5, shape)
  q, k, v, erase = (x / 8 for x in (q, k, v, erase))
  per_channel = -jnp.exp(drawn - 2)
  per_head = per_channel[..., 0]
  state = init_gated_state(1, _HEADS, _WIDTH, _WIDTH)

  def ungated(q, k, v):
    sums = init_prefix_sums(1, _HEADS, _WIDTH, _WIDTH)
    y, sums = chunked_linear_attention(q, k, v, sums)
    return y, sums.kv

  def gated(q, k, v, decay, erase=None):
    return chunked_gated_linear_attention(q, k, v, decay, state, erase=erase)

  return {
    "ungated": (ungated, [q * q, k * k, v]),
    "head": (gated, [q, k, v, per_head]),
    "channel": (gated, [q, k, v, per_channel]),
    "GDN": (gated, [q, k, v, per_head, erase]),
    "KDA": (gated, [q, k, v, per_channel, erase]),
  }


def _loss(kernel, *args):
  y, state = kernel(*args)
  return jnp.sum(y * y) + jnp.sum(state * state)


def time_in_turns(
  calls: dict[str, Any], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
  """Times programs in turns: median seconds of the clock and the processor."""
  found = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      jax.block_until_ready(call())  # Not timed, as in `seconds_in_turns`.
      start = time.perf_counter(), time.process_time()
      jax.block_until_ready(call())
      end = time.perf_counter(), time.process_time()
      found[name].append(np.subtract(end, start))
  clock, processor = (
    {name: float(np.median([x[i] for x in found[name]])) for name in calls}
    for i in (0, 1)
  )
  return clock, processor


if __name__ == "__main__":
  command_line.run(main)
