"""Time of LSH attention beside softmax attention by blocks, against the length.

Gradients of 8 heads of 64, batch 1, float32; of LSH with its hashing and
sorting, buckets of 64 tokens on the average, rounds one after the other.
Medians over rounds in which all have their turn, in one process; softmax is
left out where a turn would take minutes.

  python experiments/lsh_time.py [--quick]
"""

import functools
from typing import Any

import jax
import numpy as np
from absl import flags
from arguments import define_count
from record import RESULTS, print_table, save
from timing import median_seconds

from slim import command_line
from slim.kernels import (
  chunked_softmax_attention,
  lsh_attention,
  lsh_buckets,
)

_QUICK = flags.DEFINE_bool("quick", False, "Up to 2,048 tokens.")
_ROUNDS = define_count("rounds", 3, "Timings of each.")
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
_LONGEST_SOFTMAX = 32768
_NUM_HASHES = (1, 2, 4)
_BUCKET_SIZE = 64


def main() -> None:
  """Measures, prints, draws and saves."""
  rows = []
  for length in _LENGTHS[:4] if _QUICK.value else _LENGTHS:
    for is_causal in (False, True):
      rows.append(measure(length, is_causal))
    print_table(rows)
  device = jax.devices()[0].platform
  name = f"lsh_time_{device}{'_quick' if _QUICK.value else ''}"
  save(name, rows)
  draw(rows, RESULTS / f"{name}.svg")


def measure(length: int, is_causal: bool) -> dict[str, Any]:
  """Times all forms at one length."""
  random = np.random.default_rng(0)
  q, k, v, y_ct = (
    jax.numpy.asarray(random.normal(size=(1, length, 8, 64)), "float32")
    for _ in range(4)
  )

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

  def gradient(attend, *inputs):
    def run(y_ct, *inputs):
      return jax.vjp(attend, *inputs)[1](y_ct)

    return functools.partial(jax.jit(run), y_ct, *inputs)

  softmax = functools.partial(chunked_softmax_attention, is_causal=is_causal)
  programs = {
    "softmax": gradient(softmax, q, k, v)
    if length <= _LONGEST_SOFTMAX
    else None
  } | {
    f"lsh_{n}": gradient(functools.partial(lsh, num_hashes=n), q, v)
    for n in _NUM_HASHES
  }
  # One turn of softmax takes a minute and more where it is longest.
  rounds = 1 if length == _LONGEST_SOFTMAX else _ROUNDS.value
  seconds = dict(
    zip(programs, median_seconds(list(programs.values()), rounds), strict=True)
  )
  row = {"tokens": length, "is_causal": is_causal}
  row |= {f"{name}_seconds": x for name, x in seconds.items()}
  row["lsh_2_microseconds_per_token"] = 1e6 * seconds["lsh_2"] / length
  row["softmax_over_lsh_2"] = (
    seconds["softmax"] / seconds["lsh_2"] if seconds["softmax"] else None
  )
  return row


def draw(rows: list[dict[str, Any]], path) -> None:
  """Draws the time of a token against the length, of what is not causal."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  rows = [row for row in rows if not row["is_causal"]]
  figure, axes = pyplot.subplots(figsize=(6, 4))
  for name in ("softmax", *(f"lsh_{n}" for n in _NUM_HASHES)):
    found = [row for row in rows if row[f"{name}_seconds"] is not None]
    axes.plot(
      [row["tokens"] for row in found],
      [1e6 * row[f"{name}_seconds"] / row["tokens"] for row in found],
      "o-",
      label=name.replace("_", "-").replace("lsh", "LSH"),
    )
  axes.set_xscale("log", base=2)
  axes.set_yscale("log")
  axes.set_xlabel("tokens")
  axes.set_ylabel("gradient, microseconds a token")
  axes.legend()
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
  command_line.run(main)
