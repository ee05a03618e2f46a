"""Time of LSH attention beside softmax attention by blocks, by length.

Gradients of 8 heads of width 64, batch 1, float32. LSH attention includes
hashing and sorting; its buckets hold 64 tokens on average, and its rounds run
one after the other. Medians over rounds in which every program has its turn, in
one process; at 32,768 tokens there is one. Softmax is left out at more.

  python experiments/lsh_time.py [--quick]
"""

import functools
import itertools
from typing import Any

import jax
from arguments import define_count, define_quick
from baselines import gradient_of
from configurations import random_arrays
from figures import label_lines, line_style, new_figure, set_log_ticks
from measurements import median_seconds
from record import (
  measure_in_stretches,
  print_table,
  read,
  results_path,
  save,
)

from slim import command_line
from slim.kernels import (
  chunked_softmax_attention,
  lsh_attention,
  lsh_buckets,
)

_QUICK = define_quick("Lengths up to 2,048.")
_ROUNDS = define_count("rounds", 3, "Timings of each program.")
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_LONGEST_SOFTMAX = 32768
_NUM_HASHES = (1, 2, 4)
_BUCKET_SIZE = 64
_LABELS = {
  "softmax": "softmax by blocks",
  "lsh_1": "LSH, 1 round",
  "lsh_2": "2 rounds",
  "lsh_4": "4 rounds",
}


def main() -> None:
  """Measures, prints, saves and draws."""
  quick = _QUICK.value
  name = f"lsh_time_{jax.devices()[0].platform}"
  lengths = _LENGTHS[1:4] if quick else _LENGTHS
  cases = itertools.product(lengths, (False, True))
  rows = measure_in_stretches(name, cases, measure, quick=quick)
  print_table(rows)
  save(name, rows, quick=quick)
  draw_results(quick)


def measure(case: tuple[int, bool]) -> list[dict[str, Any]]:
  """Times all programs at one length."""
  length, is_causal = case
  q, k, v, y_ct = random_arrays(4, (1, length, 8, 64))

  def lsh(qk, v, num_hashes):
    buckets = lsh_buckets(
      qk,
      jax.random.key(0),
      num_buckets=2 * max(1, round(length / (2 * _BUCKET_SIZE))),
      num_hashes=num_hashes,
    )
    return lsh_attention(
      qk, v, buckets, chunk_size=_BUCKET_SIZE, is_causal=is_causal
    )

  def program(attend, *inputs):
    return functools.partial(jax.jit(gradient_of(attend)), *inputs, y_ct)

  softmax = functools.partial(chunked_softmax_attention, is_causal=is_causal)
  programs = {
    "softmax": program(softmax, q, k, v) if length <= _LONGEST_SOFTMAX else None
  } | {
    f"lsh_{n}": program(functools.partial(lsh, num_hashes=n), q, v)
    for n in _NUM_HASHES
  }
  # At its longest, one turn of softmax takes more than a minute.
  rounds = 1 if length == _LONGEST_SOFTMAX else _ROUNDS.value
  seconds = median_seconds(programs, rounds)
  row = {"tokens": length, "is_causal": is_causal}
  row |= {f"{name}_seconds": x for name, x in seconds.items()}
  row["lsh_2_microseconds_per_token"] = 1e6 * seconds["lsh_2"] / length
  row["softmax_over_lsh_2"] = (
    seconds["softmax"] / seconds["lsh_2"] if seconds["softmax"] else None
  )
  return [row]


def draw_results(quick: bool = False) -> None:
  """Draws the stored results of each kind of device."""
  names = (f"lsh_time_{device}" for device in ("cpu", "gpu", "tpu"))
  for name, found in read(names, quick).items():
    draw(found["rows"], results_path(name, "svg", quick))


def draw(rows: list[dict[str, Any]], path) -> None:
  """Draws the time per token against the length, without causal masks."""
  rows = [row for row in rows if not row["is_causal"]]
  with new_figure(path, size=(8, 4.2)) as (_, axis):
    for name in _LABELS:
      found = [row for row in rows if row[f"{name}_seconds"] is not None]
      axis.plot(
        [row["tokens"] for row in found],
        [1e6 * row[f"{name}_seconds"] / row["tokens"] for row in found],
        label=_LABELS[name],
        **line_style(name),
      )
    set_log_ticks(axis, (row["tokens"] for row in rows))
    axis.set_yscale("log")
    ticks = [50, 100, 200, 500, 1000, 2000]
    axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_yticks([], minor=True)
    axis.set_xlabel("tokens")
    axis.set_ylabel("gradient, microseconds per token")
    label_lines(axis)


if __name__ == "__main__":
  command_line.run(main)
