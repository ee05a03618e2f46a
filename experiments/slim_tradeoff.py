"""Time, memory and error of one gradient against the chunk size.

Figure 3 of the SLiM paper: for each of its four configurations the gradient by
every policy at C = 64, 256, 1024, beside `full` (C = T) and the
`lax.scan(jax.checkpoint)` that one would write without slim. Memory is the
temporary memory of value_and_grad as XLA assigns it; the error is measured from
the gradient of `full`, as `slim.certify.gradient_error` defines it; time is the
median over rounds in which every method has its turn, over that of `full`. The
first round does not count where there are more, as in all but IV. The figure is
drawn from all configurations in results/.

  python experiments/slim_tradeoff.py [--text=FILE] [--configurations=I,II]
"""

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags
from arguments import define_names, define_text
from baselines import gradient_methods
from configurations import CONFIGURATIONS, make_batch, make_model
from record import RESULTS, print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error

_TEXT = define_text("A text; random bytes if not given.")
_NAMES = define_names(
  "configurations", list(CONFIGURATIONS), CONFIGURATIONS, "Which."
)
_QUICK = flags.DEFINE_bool("quick", False, "II alone, in two minutes.")
_CHUNK_SIZES = (64, 256, 1024)
_ROUNDS = {"I": 3, "II": 6, "III": 2, "IV": 1}


def main() -> None:
  """Measures, prints, saves and draws."""
  suffix = "_quick" if _QUICK.value else ""
  for name in ["II"] if _QUICK.value else _NAMES.value:
    rows = measure(name)
    print_table(rows)
    save(f"slim_tradeoff_{name}{suffix}", rows)
  found = [
    RESULTS / f"slim_tradeoff_{name}{suffix}.json" for name in CONFIGURATIONS
  ]
  rows = [
    json.loads(path.read_text())["rows"] for path in found if path.exists()
  ]
  draw(rows, RESULTS / f"slim_tradeoff{suffix}.svg")


def measure(name: str) -> list[dict[str, Any]]:
  """Measures all methods of one configuration."""
  model = make_model(name)
  params = model.init(jax.random.key(0))
  length = CONFIGURATIONS[name].sequence_length
  batch = make_batch(length, _TEXT.value)
  rows, programs, seconds, right = [], [], [], None
  for (method, chunk_size), program in gradient_methods(
    model, length, _CHUNK_SIZES
  ).items():
    with jax.default_matmul_precision("highest"):
      compiled = jax.jit(program).lower(params, batch).compile()
    programs.append(functools.partial(compiled, params, batch))
    gradients, first = timed(programs[-1])
    seconds.append([first])
    right = gradients if right is None else right
    memory = compiled.memory_analysis()
    rows.append(
      {
        "configuration": name,
        "method": method,
        "chunk_size": chunk_size,
        "activation_MiB": memory.temp_size_in_bytes / 2**20,
        "arguments_MiB": memory.argument_size_in_bytes / 2**20,
        "outputs_MiB": memory.output_size_in_bytes / 2**20,
        "error": largest_error(gradients, right),
      }
    )
  for _ in range(_ROUNDS[name] - 1):
    for program, found in zip(programs, seconds, strict=True):
      found.append(timed(program)[1])
  for row, found in zip(rows, seconds, strict=True):
    found = found[1:] or found
    row["seconds"] = float(np.median(found))
    row["fastest"], row["slowest"] = min(found), max(found)
    row["over_full"] = row["seconds"] / rows[0]["seconds"]
  return rows


def timed(program: Callable[[], Any]) -> tuple[Any, float]:
  """Returns the gradients, and the seconds they took."""
  start = time.perf_counter()
  _, gradients = jax.block_until_ready(program())
  return gradients, time.perf_counter() - start


def draw(configurations: list[list[dict[str, Any]]], path: Any) -> None:
  """Draws a column of three panels for the rows of each configuration."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  panels = {
    "over_full": "time / full",
    "activation_MiB": "activations, MiB",
    "error": "distance to full",
  }
  width = 3 * len(configurations)
  figure, axes = pyplot.subplots(
    3, len(configurations), figsize=(width, 7), sharex="col", squeeze=False
  )
  for column, (full, *others) in zip(axes.T, configurations, strict=True):
    for axis, (key, label) in zip(column, panels.items(), strict=True):
      for method in dict.fromkeys(row["method"] for row in others):
        points = [row for row in others if row["method"] == method]
        axis.plot(
          [row["chunk_size"] for row in points],
          [row[key] for row in points],
          marker="o",
          markersize=3,
          label=method,
        )
      if key != "error":
        axis.axhline(full[key], color="black", linewidth=1, label="full")
      axis.set_xscale("log")
      sizes = sorted({row["chunk_size"] for row in others})
      axis.set_xticks(sizes, map(str, sizes), minor=False)
      axis.set_xticks([], minor=True)
      axis.set_yscale("linear" if key == "over_full" else "log")
      if key == "error":
        axis.set_ylim(1e-7, 1e-5)
      if axis in axes[:, 0]:
        axis.set_ylabel(label)
    column[0].set_title(f"{full['configuration']}, T = {full['chunk_size']:,}")
    column[2].set_xlabel("chunk size C, tokens")
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="lower center", ncols=len(labels))
  figure.tight_layout(rect=(0, 0.04, 1, 1))
  figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
  command_line.run(main)
