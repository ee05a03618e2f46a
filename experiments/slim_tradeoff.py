"""Time, memory and error of one gradient against the chunk size.

Figure 3 of the SLiM paper: for each of its four configurations, the gradient by
every policy with C = 64, 256 and 1024, beside `full` (C = T) and
`lax.scan(jax.checkpoint)`, which needs no slim. Memory is the temporary memory
of value_and_grad as XLA assigns it. The error is the distance from the gradient
of `full`, as `slim.certify.gradient_error` defines it. Time is the median over
rounds in which every method has its turn, over that of `full`. The figure shows
all configurations in results/.

  python experiments/slim_tradeoff.py [--text=FILE] [--configurations=I,II]
"""

import functools
from typing import Any

import jax
import numpy as np
from arguments import (
  chosen_configurations,
  define_names,
  define_quick,
  define_text,
)
from baselines import gradient_methods
from configurations import CONFIGURATIONS, make_batch, make_model
from figures import (
  line_style,
  new_figure,
  set_log_sizes,
  set_log_ticks,
  share_legend,
)
from measurements import memory_columns, seconds_in_turns
from record import print_table, read, results_path, save

from slim import command_line
from slim.certify.gradient_error import largest_error
from slim.memory.report import report_of

_TEXT = define_text("Text file; default: random bytes.")
_NAMES = define_names(
  "configurations", list(CONFIGURATIONS), CONFIGURATIONS, "What to measure."
)
_QUICK = define_quick("A small model, the smallest chunk size: half a minute.")
_CHUNK_SIZES = (64, 256, 1024)
_ROUNDS = {"I": 3, "II": 5, "III": 3, "IV": 1}


def main() -> None:
  """Measures, prints, saves and draws."""
  quick = _QUICK.value
  for name in chosen_configurations(_NAMES, _QUICK):
    rows = measure(name)
    print_table(rows)
    save(f"slim_tradeoff_{name}", rows, quick=quick)
  draw_results(quick)


def measure(name: str) -> list[dict[str, Any]]:
  """Measures all methods of one configuration."""
  model = make_model(name, _QUICK.value)
  params = model.init(jax.random.key(0))
  length = CONFIGURATIONS[name].sequence_length
  batch = make_batch(length, _TEXT.value)
  rows, programs, right = [], [], None
  chunk_sizes = _CHUNK_SIZES[:1] if _QUICK.value else _CHUNK_SIZES
  for (method, chunk_size), program in gradient_methods(
    model, length, chunk_sizes
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
  seconds = seconds_in_turns(programs, _ROUNDS[name])
  for row, found in zip(rows, seconds, strict=True):
    row["seconds"] = float(np.median(found))
    row["fastest"], row["slowest"] = min(found), max(found)
    row["over_full"] = row["seconds"] / rows[0]["seconds"]
  return rows


def draw_results(quick: bool = False) -> None:
  """Draws the stored results of all configurations in one figure."""
  found = read((f"slim_tradeoff_{name}" for name in CONFIGURATIONS), quick)
  rows = [record["rows"] for record in found.values()]
  draw(rows, results_path("slim_tradeoff", "svg", quick))


def draw(configurations: list[list[dict[str, Any]]], path: Any) -> None:
  """Draws a column of three panels for the rows of each configuration."""
  panels = {
    "over_full": "time / full",
    "activation_MiB": "activations",
    "error": "distance to full",
  }
  count = len(configurations)
  with new_figure(
    path,
    3,
    count,
    size=(2 + 2.5 * count, 8),
    sharex="col",
    sharey="row",
    squeeze=False,
  ) as (figure, axes):
    for column, (full, *others) in zip(axes.T, configurations, strict=True):
      for axis, (key, label) in zip(column, panels.items(), strict=True):
        methods = dict.fromkeys(row["method"] for row in others)
        for index, method in enumerate(methods):
          points = [
            (row["chunk_size"], row[key])
            for row in others
            if row["method"] == method
          ]
          # Where lines lie on each other, each is thinner than the one below.
          axis.plot(
            *zip(*points, strict=True),
            label=method,
            linewidth=3.2 - 0.6 * index,
            **line_style(method),
          )
        if key != "error":
          color = line_style("full")["color"]
          axis.axhline(full[key], color=color, linestyle="--", label="full")
        if key == "error":
          axis.set_yscale("log")
          axis.set_ylim(1e-7, 1e-5)
        if axis in axes[:, 0]:
          axis.set_ylabel(label)
      name, length = full["configuration"], full["chunk_size"]
      column[0].set_title(f"{name}: {length:,} tokens")
      column[2].set_xlabel("chunk size C, tokens")
      set_log_ticks(column[2], (row["chunk_size"] for row in others))
    set_log_sizes(axes[1, 0])
    share_legend(figure, columns=5)


if __name__ == "__main__":
  command_line.run(main)
