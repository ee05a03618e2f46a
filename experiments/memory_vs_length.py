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
from figures import (
  format_mebibytes,
  label_lines,
  line_style,
  new_figure,
  set_log_sizes,
  set_log_ticks,
)
from measurements import memory_columns
from record import print_table, read, results_path, save

from slim import command_line
from slim.memory import memory_report

_QUICK = define_quick("The first and the last length, one chunk size.")
_LENGTHS = (4096, 16384, 65536, 262144, 1048576)
_CHUNK_SIZE = 64  # In the figure.
_LABELS = {
  "full": "full: the whole sequence at once",
  "lax.scan(jax.checkpoint)": "lax.scan(jax.checkpoint) = policy store",
  "slim, sqrt": "policy sqrt: any step",
  "slim, rewind": "policy rewind: steps that can be undone",
}


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
    for method, label in _LABELS.items():
      points = [
        (row["tokens"], row["activation_MiB"])
        for row in rows
        if row["method"] == method
        and (method == "full" or row["chunk_size"] == _CHUNK_SIZE)
      ]
      axis.plot(
        *zip(*points, strict=True),
        **line_style(method),
        label=f"{format_mebibytes(points[-1][1])}\n{label}",
      )
    set_log_ticks(axis, lengths)
    axis.set_yscale("log")
    axis.set_ylim(bottom=10)
    set_log_sizes(axis)
    axis.set_xlabel("tokens in the sequence")
    axis.set_title(
      f"activations of one gradient, C = {_CHUNK_SIZE} tokens", loc="left"
    )
    axis.grid(axis="x", visible=False)
    figure.subplots_adjust(left=0.1, right=0.6, bottom=0.13, top=0.91)
    label_lines(axis, fontsize=11)


if __name__ == "__main__":
  command_line.run(main)
