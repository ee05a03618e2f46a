"""Time, memory and error of one gradient against the chunk size.

Figure 3 of the SLiM paper: for each of its four configurations the gradient by
every policy at C = 64, 256, 1024, beside `full` (C = T) and the
`lax.scan(jax.checkpoint)` that one would write without slim. Memory is the
temporary memory of value_and_grad as XLA assigns it; the error is measured from
the gradient of `full`, as in gradient_error.py; time is the median after one
warm-up, over that of `full` in the same process.

  python experiments/slim_tradeoff.py [--text=FILE]
"""

import time
from typing import Any

import jax
import numpy as np
from absl import app, flags
from baselines import scan_checkpoint_value_and_grad
from configurations import CONFIGURATIONS, make_batch, make_model
from errors import largest_error
from record import RESULTS, print_table, save

from slim.gradients import make_value_and_grad
from slim.kernels import POLICIES

_TEXT = flags.DEFINE_string("text", None, "A text; random bytes if not given.")
_NAMES = flags.DEFINE_list("configurations", list(CONFIGURATIONS), "Which.")
_QUICK = flags.DEFINE_bool("quick", False, "II alone, in two minutes.")
_CHUNK_SIZES = (64, 256, 1024)
_REPETITIONS = {"I": 3, "II": 5, "III": 1, "IV": 1}


def main(argv: list[str]) -> None:
  """Measures, prints, draws and saves."""
  del argv
  rows = []
  for name in ["II"] if _QUICK.value else _NAMES.value:
    rows += measure(name)
    print_table(rows)
  name = "slim_tradeoff_quick" if _QUICK.value else "slim_tradeoff"
  save(name, rows)
  draw(rows, RESULTS / f"{name}.svg")


def measure(name: str) -> list[dict[str, Any]]:
  """Measures all methods of one configuration."""
  model = make_model(name)
  params = model.init(jax.random.key(0))
  length = CONFIGURATIONS[name].sequence_length
  batch = make_batch(length, _TEXT.value)
  programs = {("full", length): make_value_and_grad(model, method="full")}
  for chunk_size in _CHUNK_SIZES:
    if chunk_size >= length:
      continue
    programs["lax.scan(jax.checkpoint)", chunk_size] = (
      scan_checkpoint_value_and_grad(model, chunk_size)
    )
    for policy in POLICIES:
      programs[policy, chunk_size] = make_value_and_grad(
        model, method="slim", chunk_size=chunk_size, policy=policy
      )
  rows, right = [], None
  for (method, chunk_size), program in programs.items():
    with jax.default_matmul_precision("highest"):
      compiled = jax.jit(program).lower(params, batch).compile()
    gradients = jax.device_get(compiled(params, batch)[1])
    gradients = jax.tree.leaves(gradients)
    right = gradients if right is None else right
    seconds = []
    for _ in range(_REPETITIONS[name]):
      start = time.perf_counter()
      jax.block_until_ready(compiled(params, batch))
      seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis().temp_size_in_bytes
    rows.append(
      {
        "configuration": name,
        "method": method,
        "chunk_size": chunk_size,
        "seconds": float(np.median(seconds)),
        "activation_MiB": memory / 2**20,
        "error": largest_error(gradients, right),
      }
    )
  for row in rows:
    row["over_full"] = row["seconds"] / rows[0]["seconds"]
  return rows


def draw(rows: list[dict[str, Any]], path: Any) -> None:
  """Draws a column of three panels for each configuration."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  names = list(dict.fromkeys(row["configuration"] for row in rows))
  methods = list(dict.fromkeys(row["method"] for row in rows))
  panels = {
    "over_full": "time / full",
    "activation_MiB": "activations, MiB",
    "error": "distance to full",
  }
  figure, axes = pyplot.subplots(
    3, len(names), figsize=(3 * len(names), 7), sharex="col", squeeze=False
  )
  for column, name in enumerate(names):
    full, *others = [row for row in rows if row["configuration"] == name]
    for row, (key, label) in enumerate(panels.items()):
      axis = axes[row, column]
      for method in methods[1:]:
        points = [p for p in others if p["method"] == method]
        axis.plot(
          [p["chunk_size"] for p in points],
          [p[key] for p in points],
          marker="o",
          markersize=3,
          label=method,
        )
      if key != "error":
        axis.axhline(full[key], color="black", linewidth=1, label="full")
      axis.set_xscale("log", base=2)
      axis.set_yscale("linear" if key == "over_full" else "log")
      if column == 0:
        axis.set_ylabel(label)
    axes[0, column].set_title(f"{name}, T = {full['chunk_size']:,}")
    axes[2, column].set_xlabel("chunk size C, tokens")
  axes[0, 0].legend(fontsize="x-small")
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
  app.run(main)
