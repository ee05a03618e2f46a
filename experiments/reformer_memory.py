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
from record import (
  measure_in_stretches,
  print_table,
  read,
  results_path,
  save,
)
from reformer_figures import draw, draw_timelines, rows_of
from reformer_models import (
  FORMULAS,
  MODELS,
  SIZES,
  measure,
)

from slim import command_line

_QUICK = define_quick("Some of the models and sizes: two minutes.")

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
_IN_DEPTH = ("Transformer", "Reformer", _LAST)  # The figure of layers.


def plan(quick: bool) -> list[dict[str, Any]]:
  """Lists the programs: figure, model, sizes and published peak."""
  rows = []

  def add(figure, model, published=None, **changes):
    sizes = SIZES | changes
    if not (quick and "published form" in model):  # It compiles for minutes.
      rows.append(
        {"figure": figure, "model": model, **sizes, "published_MiB": published}
      )

  for model in MODELS:
    add("models", model, _PUBLISHED["models"].get(model))
  for model in ("Reformer, published form", "Reformer"):
    for hashes in (2, 16) if quick else _GROWTH["hashes"]:
      add("hashes", model, _PUBLISHED["hashes"].get(hashes), hashes=hashes)
  for model in _IN_DEPTH:
    for layers in (2, 6, 12) if quick else _PUBLISHED["layers"]:
      published = _PUBLISHED["layers"].get(layers)
      published = published if model == "Reformer" else None
      add("layers", model, published, layers=layers)
  for size, values in _GROWTH.items():
    if quick and size not in ("length", "layers"):
      continue
    for model, formula in FORMULAS.items():
      if quick and model not in _IN_DEPTH:
        continue
      # The published form is measured only for rounds of hashing.
      if size != "hashes" and model == "Reformer, published form":
        continue
      if size == "hashes" and not formula.depends_on("hashes"):
        continue
      for value in values:
        add(f"growth in {size}", model, **{size: value})
  for layers in (3,) if quick else (3, 12, 24):
    add("slim", _LAST, layers=layers)
  for length in (1048576,) if quick else (65536, 1048576):
    add("slim", _LAST, layers=3, length=length)
  for layers in () if quick else (3, 24):
    add("slim", "SLiM", layers=layers)
  return rows


def main() -> None:
  """Compiles, prints, saves and draws."""
  quick = _QUICK.value
  rows = plan(quick)
  # Several figures share a program. Those of the first have a timeline.
  cases = [(row["model"], *(row[size] for size in SIZES)) for row in rows]
  distinct = list(dict.fromkeys(cases))
  # Tracing holds Python's lock, so threads would not run in parallel.
  with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
    measured = measure_in_stretches(
      "reformer_memory", distinct, measure, quick=quick, apply=pool.map
    )
  found = dict(zip(distinct, measured, strict=True))
  rows = [row | found[x]["memory"] for row, x in zip(rows, cases, strict=True)]
  exponents = growth(rows)
  compared = marks(rows, exponents)
  for table in (rows, exponents, compared):
    print_table(table)
  save(
    "reformer_memory",
    rows,
    quick=quick,
    growth=exponents,
    marks=compared,
    timelines={
      row["model"]: found[x]["timeline"]
      for row, x in zip(rows, cases, strict=True)
      if row["figure"] == "models"
    },
  )
  draw_results(quick)


def draw_results(quick: bool = False) -> None:
  """Draws the stored results: activations against sizes, and timelines."""
  found = read(["reformer_memory"], quick)["reformer_memory"]
  draw(found["rows"], results_path("reformer_memory", "svg", quick))
  draw_timelines(
    found["rows"],
    found["timelines"],
    results_path("reformer_memory_timelines", "svg", quick),
  )


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Fits the exponents of growth by least squares of logarithms."""
  found = []
  for size in _GROWTH:
    for model, formula in FORMULAS.items():
      points = rows_of(rows, f"growth in {size}", model)
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

  def of(figure, model, **sizes):
    return next(
      row["activation_MiB"]
      for row in rows_of(rows, figure, model)
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
