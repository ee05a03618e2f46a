"""Memory of a Reformer and its relatives: the report of reformer_fastai.

The report has three figures of Transformer, LSH, reversible and Reformer
models: memory during a training step, against the rounds of hashing, and
against the number of layers. This script adds Table 3 of Kitaev et al.: the
exponents with which activations grow. Activations are the temporary memory of
value_and_grad as XLA assigns it; programs are compiled and not run. The
published peaks are from a GPU in half precision with dropout, and include
weights and gradients. `reformer_models` has the settings.

  python experiments/reformer_memory.py [--quick]
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from arguments import define_quick
from measurements import memory_columns
from record import print_table, save
from reformer_figures import draw, draw_timelines, select
from reformer_models import (
  FORMULAS,
  MODELS,
  QUICK_SIZES,
  SIZES,
  measure,
)

from slim import command_line
from slim.memory.rendering import describe_peak

_QUICK = define_quick("Small models: two minutes.")

# MiB, read off the charts of the report, to 20, 6 and 4 MiB.
_PUBLISHED = {
  "models": {
    "Transformer": 8566,
    "LSH Transformer, published form": 5120,
    "Reversible": 2120,
    "Reformer, published form": 1335,
  },
  "hashes": {2: 555, 4: 815, 8: 1331, 16: 2366},
  "layers": {2: 1240, 4: 1286, 6: 1329, 8: 1375, 10: 1419, 12: 1464},
}
_GROWTH = {
  "length": (1024, 4096, 16384),
  "layers": (2, 6, 12),
  "mlp_width": (512, 2048, 8192),
  "hashes": (2, 4, 8, 16),
}
_LAST = "SLiM × reversible"


def plan(quick: bool) -> list[dict[str, Any]]:
  """Lists the programs: figure, model, sizes and published peak."""
  base = QUICK_SIZES if quick else SIZES
  rows = []

  def add(figure, model, published=None, **changes):
    sizes = base | changes
    rows.append(
      {"figure": figure, "model": model, **sizes, "published_MiB": published}
    )

  for model in MODELS:
    add("models", model, _PUBLISHED["models"].get(model))
  for model in ("Reformer, published form", "Reformer"):
    for hashes in (2,) if quick else _GROWTH["hashes"]:
      add("hashes", model, _PUBLISHED["hashes"].get(hashes), hashes=hashes)
  for model in ("Transformer", "Reformer", _LAST):
    for layers in (1, 2) if quick else _PUBLISHED["layers"]:
      published = _PUBLISHED["layers"].get(layers)
      published = published if model == "Reformer" else None
      add("layers", model, published, layers=layers)
  for size, values in _GROWTH.items():
    if quick and size != "length":
      continue
    for model, formula in FORMULAS.items():
      # The published form is measured only for rounds of hashing: it compiles
      # for minutes.
      if size != "hashes" and model == "Reformer, published form":
        continue
      if size == "hashes" and not formula.depends_on("hashes"):
        continue
      for value in (256, 512) if quick else values:
        add(f"growth in {size}", model, **{size: value})
  for layers in (1,) if quick else (3, 12, 24):
    add("slim", _LAST, layers=layers)
  for length in (1024,) if quick else (65536, 1048576):
    add("slim", _LAST, layers=1 if quick else 3, length=length)
  for layers in () if quick else (3, 24):
    add("slim", "SLiM", layers=layers)
  if quick:  # The published peaks are for other sizes.
    rows = [row | {"published_MiB": None} for row in rows]
  return rows


def main() -> None:
  """Compiles, prints, saves and draws."""
  rows = plan(_QUICK.value)
  keys = [(row["model"], *(row[size] for size in SIZES)) for row in rows]
  found = {}
  # Tracing holds Python's lock, so threads would not run in parallel.
  with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
    for key, row in zip(keys, rows, strict=True):
      if key not in found:
        sizes = {size: row[size] for size in SIZES}
        found[key] = pool.submit(
          measure, row["model"], sizes, row["figure"] == "models"
        )
    timelines = {}
    for key, row in zip(keys, rows, strict=True):
      report, timeline = found[key].result()
      row |= memory_columns(report)
      if row["figure"] == "models":
        timelines[row["model"]] = timeline
      print(*key, f"{row['activation_MiB']:,.1f} MiB", flush=True)
  exponents = growth(rows)
  compared = marks(rows, exponents)
  peaks = {model: describe_peak(x) for model, x in timelines.items()}
  for table in (rows, exponents, compared):
    if table:
      print_table(table)
  path = save(
    "reformer_memory",
    rows,
    quick=_QUICK.value,
    growth=exponents,
    marks=compared,
    largest_at_peak=peaks,
  )
  draw(rows, path.with_suffix(".svg"))
  draw_timelines(rows, timelines, path.with_name(f"{path.stem}_timelines.svg"))


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Fits the exponents of growth by least squares of logarithms."""
  found = []
  for size in _GROWTH:
    for model, formula in FORMULAS.items():
      points = select(rows, f"growth in {size}", model)
      if not points:
        continue
      x = [row[size] for row in points]
      predicted = [formula(row) for row in points]
      found.append(
        {
          "model": model,
          "in": size,
          "exponent": exponent(x, [row["activation_MiB"] for row in points]),
          "of_formula": exponent(x, predicted),
          "formula": str(formula),
        }
      )
  return found


def exponent(x: list[float], y: list[float]) -> float:
  """Fits p in y ∝ x ** p."""
  slope = np.polyfit(np.log(x), np.log(y), 1)[0]
  return round(float(slope), 4) + 0.0  # Turns -0.0 into 0.0.


def marks(
  rows: list[dict[str, Any]], exponents: list[dict[str, Any]]
) -> list[dict[str, Any]]:
  """Compares the results with their goals."""
  if not select(rows, "slim", "SLiM"):  # A quick run.
    return []

  def of(figure, model, **sizes):
    return next(
      row["activation_MiB"]
      for row in select(rows, figure, model)
      if sizes.items() <= row.items()
    )

  reformer = of("models", "Reformer")
  dense = of("models", "Transformer")
  kept = of("models", "Transformer, probabilities only")

  def grown(figure, size, least, most):
    last, first = (
      of(figure, "Reformer", **{size: value}) for value in (most, least)
    )
    return 100 * (last / first - 1)

  in_length = next(
    row["exponent"]
    for row in exponents
    if (row["model"], row["in"]) == ("Reformer", "length")
  )
  found = [
    ("Reformer, MiB", "<=", 150, reformer),
    ("Transformer / Reformer", ">=", 60, dense / reformer),
    ("probabilities only / Reformer", ">=", 30, kept / reformer),
    ("Reformer, 2 to 12 layers, %", "<=", 2, grown("layers", "layers", 2, 12)),
    (
      "Reformer, 2 to 16 hashes, %",
      "<=",
      2.5,
      grown("hashes", "hashes", 2, 16),
    ),
    ("Reformer, exponent in length", "<=", 1.02, in_length),
    (f"{_LAST}, 3 layers, MiB", "<=", 42, of("slim", _LAST, layers=3)),
  ]
  return [
    {
      "of": name,
      "mark": f"{sign} {mark}",
      "found": value,
      "is_met": value <= mark if sign == "<=" else value >= mark,
    }
    for name, sign, mark, value in found
  ]


if __name__ == "__main__":
  command_line.run(main)
