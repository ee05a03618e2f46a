"""Activation memory of one gradient against the length of the sequence.

Width 1024, 3 layers, batch 1, float32. Programs are compiled and not run: the
figures are the temporary memory of value_and_grad as XLA assigns it, without
weights, gradients and tokens. A gradient of 400 GiB can be measured on a
laptop. The figure shows C = 64 and is that of the README.

  python experiments/memory_vs_length.py
"""

import os
from typing import Any

import jax
from arguments import define_quick
from baselines import gradient_methods
from configurations import abstract_batch, make_model
from figures import new_figure, set_log_ticks
from measurements import memory_columns
from record import print_table, read, results_path, save

from slim import command_line
from slim.memory import memory_report

_QUICK = define_quick("The first and the last length, one chunk size.")
_LENGTHS = (4096, 16384, 65536, 262144, 1048576)
_CHUNK_SIZE = 64  # In the figure.
# Method, label, color. Each color has a contrast of at least 3.9 with white and
# with GitHub's dark background, as the figure has no background of its own.
_LINES = (
  ("full", "full: the whole sequence at once", "#d1454f"),
  (
    "lax.scan(jax.checkpoint)",
    "lax.scan(jax.checkpoint) = policy store",
    "#b07408",
  ),
  ("slim, sqrt", "policy sqrt: any step", "#3f8f5b"),
  ("slim, rewind", "policy rewind: steps that can be undone", "#3b82d6"),
)


def main() -> None:
  """Compiles, prints, saves and draws."""
  quick = _QUICK.value
  lengths = _LENGTHS[:: len(_LENGTHS) - 1] if quick else _LENGTHS
  chunk_sizes = (64,) if quick else (64, 512)
  model = make_model("III")
  rows = []
  for length in lengths:
    methods = gradient_methods(model, length, chunk_sizes)
    for (name, chunk_size), value_and_grad in methods.items():
      rows.append(measure(model, value_and_grad, length, name, chunk_size))
  print_table(rows)
  save("memory_vs_length", rows, quick=quick)
  draw_results(quick)


def measure(model, value_and_grad, length, name, chunk_size):
  """Compiles one gradient and returns its memory."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  report = memory_report(value_and_grad, params, abstract_batch(length))
  row = {"tokens": length, "method": name, "chunk_size": chunk_size}
  return row | memory_columns(report)


def draw_results(quick: bool = False) -> None:
  """Draws the stored results."""
  name = "memory_vs_length"
  draw(read([name], quick)[name]["rows"], results_path(name, "svg", quick))


def draw(rows: list[dict[str, Any]], path: str | os.PathLike[str]) -> None:
  """Draws the activations against the length, a line for each method.

  Args:
    rows: As `measure` returns them, of two lengths or more.
    path: The SVG file.
  """
  lengths = sorted({row["tokens"] for row in rows})
  with new_figure(path, size=(8.6, 4.2), layout=None) as (figure, axis):
    for method, label, color in _LINES:
      points = [
        (row["tokens"], row["activation_MiB"])
        for row in rows
        if row["method"] == method
        and (method == "full" or row["chunk_size"] == _CHUNK_SIZE)
      ]
      axis.plot(*zip(*points, strict=True), "o-", color=color)
      axis.annotate(
        f"{_size(points[-1][1])}\n{label}",
        points[-1],
        (10, 0),
        textcoords="offset points",
        color=color,
        fontsize=11,
        va="center",
        annotation_clip=False,
      )
    set_log_ticks(axis, lengths)
    axis.set_yscale("log")
    decades = [10, 100, 1024, 10 * 1024, 100 * 1024]
    axis.set_yticks(decades, map(_size, decades))
    axis.set_yticks([], minor=True)
    axis.set_ylim(bottom=10)
    axis.set_xlabel("tokens in the sequence")
    axis.set_title(
      f"activations of one gradient, C = {_CHUNK_SIZE} tokens", loc="left"
    )
    axis.grid(axis="x", visible=False)
    figure.subplots_adjust(left=0.1, right=0.6, bottom=0.13, top=0.91)


def _size(mebibytes):
  """Returns a size as in "44 MiB" or "361 GiB"."""
  if mebibytes < 1024:
    return f"{mebibytes:.0f} MiB"
  gibibytes = mebibytes / 1024
  return f"{gibibytes:.0f} GiB" if gibibytes >= 100 else f"{gibibytes:.3g} GiB"


if __name__ == "__main__":
  command_line.run(main)
