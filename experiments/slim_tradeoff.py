"""Time, memory and error of one gradient against the chunk size.

Figure 3 of the SLiM paper: for each of its four configurations, the gradient by
every policy with C = 64, 256 and 1024, beside `full` (C = T) and
`lax.scan(jax.checkpoint)`, which needs no slim. Memory is the temporary memory
of value_and_grad as XLA assigns it. The error is the distance from the gradient
of `full`, as `slim.certify.gradient_error` defines it. Time is the median over
rounds in which every method has its turn, over that of `full`; the first call
of each method is not timed. The figure shows all configurations in results/.

  python experiments/slim_tradeoff.py [--text=FILE] [--configurations=I,II]
"""

import functools
import json
from typing import Any

import jax
import numpy as np
from arguments import define_names, define_quick, define_text
from baselines import gradient_methods
from configurations import CONFIGURATIONS, make_batch, make_model
from figures import GRAY, new_figure, set_log_ticks, share_legend
from measurements import memory_columns, seconds_in_turns
from record import RESULTS, print_table, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.memory.report import report_of

_TEXT = define_text("Text file; default: random bytes.")
_NAMES = define_names(
  "configurations", list(CONFIGURATIONS), CONFIGURATIONS, "What to measure."
)
_QUICK = define_quick("Configuration II only, in two minutes.")
_CHUNK_SIZES = (64, 256, 1024)
_ROUNDS = {"I": 2, "II": 5, "III": 1, "IV": 1}


def main() -> None:
  """Measures, prints, saves and draws."""
  for name in ["II"] if _QUICK.value else _NAMES.value:
    rows = measure(name)
    print_table(rows)
    save(f"slim_tradeoff_{name}", rows, quick=_QUICK.value)
  suffix = "_quick" if _QUICK.value else ""
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
  rows, programs, right = [], [], None
  for (method, chunk_size), program in gradient_methods(
    model, length, _CHUNK_SIZES
  ).items():
    with jax.default_matmul_precision("highest"):
      compiled = jax.jit(program).lower(params, batch).compile()
    programs.append(functools.partial(compiled, params, batch))
    _, gradients = programs[-1]()
    right = gradients if right is None else right
    rows.append(
      {
        "configuration": name,
        "method": method,
        "chunk_size": chunk_size,
        **memory_columns(report_of(compiled)),
        "error": largest_error(gradients, right),
      }
    )
  # One gradient of IV takes 40 s, so each turn is one call.
  seconds = seconds_in_turns(programs, _ROUNDS[name], calls=1)
  for row, found in zip(rows, seconds, strict=True):
    row["seconds"] = float(np.median(found))
    row["fastest"], row["slowest"] = min(found), max(found)
    row["over_full"] = row["seconds"] / rows[0]["seconds"]
  return rows


def draw(configurations: list[list[dict[str, Any]]], path: Any) -> None:
  """Draws a column of three panels for the rows of each configuration."""
  panels = {
    "over_full": "time / full",
    "activation_MiB": "activations, MiB",
    "error": "distance to full",
  }
  count = len(configurations)
  with new_figure(
    path, 3, count, size=(3 * count, 7), sharex="col", squeeze=False
  ) as (figure, axes):
    for column, (full, *others) in zip(axes.T, configurations, strict=True):
      for axis, (key, label) in zip(column, panels.items(), strict=True):
        for method in dict.fromkeys(row["method"] for row in others):
          points = [
            (row["chunk_size"], row[key])
            for row in others
            if row["method"] == method
          ]
          axis.plot(*zip(*points, strict=True), "o-", label=method)
        if key != "error":
          axis.axhline(full[key], color=GRAY, linewidth=1, label="full")
        axis.set_yscale("linear" if key == "over_full" else "log")
        if key == "error":
          axis.set_ylim(1e-7, 1e-5)
        if axis in axes[:, 0]:
          axis.set_ylabel(label)
      name, length = full["configuration"], full["chunk_size"]
      column[0].set_title(f"{name}, T = {length:,}")
      column[2].set_xlabel("chunk size C, tokens")
      set_log_ticks(column[2], (row["chunk_size"] for row in others))
    share_legend(figure, columns=5)


if __name__ == "__main__":
  command_line.run(main)
