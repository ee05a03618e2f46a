"""The figures of experiments/: that they are drawn, and can be read."""

import json
import re

import numpy as np
import pytest

from tests.experiments.conftest import FOLDER


def test_the_figure_of_memory_is_that_of_its_results(beside, tmp_path):
  """Fails if the figure of the README shows other numbers than the JSON."""
  import memory_vs_length

  results = FOLDER / "results"
  record = json.loads((results / "memory_vs_length.json").read_text())
  memory_vs_length.draw(record["rows"], tmp_path / "figure.svg")
  # Labels are comments of the paths that draw them.
  found, committed = (
    re.findall("<!-- (.*) -->", path.read_text())
    for path in (tmp_path / "figure.svg", results / "memory_vs_length.svg")
  )
  assert found and found == committed


@pytest.mark.parametrize("count", [1, 2])
def test_the_tradeoff_is_drawn(beside, tmp_path, count):
  """Fails if measuring for an hour ends in an error."""
  import slim_tradeoff

  rows = [
    {
      "configuration": "II",
      "method": method,
      "chunk_size": chunk_size,
      "over_full": 1.2,
      "activation_MiB": 10.0,
      "error": 1e-7,
    }
    for method, chunk_size in (
      ("full", 8),
      ("slim, sqrt", 2),
      ("slim, sqrt", 4),
      ("slim, rewind", 2),
    )
  ]
  slim_tradeoff.draw([rows] * count, tmp_path / "figure.svg")
  assert "C, tokens" in (tmp_path / "figure.svg").read_text()


def test_learning_curves_are_drawn(beside, monkeypatch, tmp_path):
  """Fails if training for an hour ends in an error."""
  import learning_curves
  import record as record_module

  record = {
    "steps_of_paper": 4,
    "curves": {"full": [[1, 2.0], [2, 1.0]], "slim-256": [[1, 2.0]]},
    "rows": [{"run": "full", "steps": 2}, {"run": "slim-256", "steps": 1}],
  }
  monkeypatch.setattr(record_module, "RESULTS", tmp_path)
  path = tmp_path / "learning_curves_ptb.json"
  path.write_text(json.dumps(record))
  learning_curves.draw_results()
  figure = (tmp_path / "learning_curves.svg").read_text()
  assert "bits per byte" in figure
  assert "2 of 4 steps" in figure
  assert "slim, smaller C" in figure
  assert "slim, larger C" not in figure


def test_softmax_memory_is_drawn(beside, tmp_path):
  """Fails if measuring for an hour ends in an error, as for a missing time."""
  import softmax_memory

  rows = [
    {
      "tokens": tokens,
      "is_causal": is_causal,
      "pass": passes,
      "implementation": "slim",
      "overhead_MiB": 1.0,
      "over_jax": None if tokens == 4 else 0.1,
    }
    for tokens in (2, 4)
    for is_causal in (False, True)
    for passes in ("forward", "gradient")
  ]
  softmax_memory.draw(rows, tmp_path / "figure.svg")
  assert "time / jax.nn" in (tmp_path / "figure.svg").read_text()


def test_reformer_memory_is_drawn(beside, tmp_path):
  """Fails if half an hour of compiling ends in an error."""
  import reformer_memory

  rows = [
    row | {"activation_MiB": float(reformer_memory.FORMULAS[row["model"]](row))}
    if row["model"] in reformer_memory.FORMULAS
    else row | {"activation_MiB": 1.0}
    for row in reformer_memory.plan(quick=False)
  ]
  exponents = reformer_memory.growth(rows)
  for row in exponents:
    np.testing.assert_allclose(row["exponent"], row["of_formula"], atol=1e-3)
  found = {row["of"]: row for row in reformer_memory.marks(rows, exponents)}
  assert found["Reformer, 2 to 12 layers, %"]["is_met"]
  assert not found["Reformer, 2 to 16 hashes, %"]["is_met"]
  formula = reformer_memory.FORMULAS["LSH Transformer, published form"]
  largest = "max(length * mlp_width, 8 * length * hashes * 128)"
  assert str(formula) == f"{largest} * layers"
  timeline = {"live_MiB": [1.0, 3.0, 2.0], "peak_MiB": 3.0}
  timelines = dict.fromkeys(reformer_memory.MODELS, timeline)
  reformer_memory.draw(rows, tmp_path / "figure.svg")
  reformer_memory.draw_timelines(rows, timelines, tmp_path / "timelines.svg")
  assert "rounds of hashing" in (tmp_path / "figure.svg").read_text()
  assert "probabilities only" in (tmp_path / "timelines.svg").read_text()


def test_every_color_is_readable_on_light_and_dark_pages(beside):
  """Fails if a line cannot be seen on one of GitHub's backgrounds."""
  import figures

  def luminance(color):
    parts = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(
      parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722] + 0.05

  colors = {x for x in vars(figures).values() if re.fullmatch("#.{6}", str(x))}
  assert len(colors) == 8
  for color in colors:
    assert luminance("#ffffff") / luminance(color) >= 3.9, color
    assert luminance(color) / luminance("#0d1117") >= 3.9, color


def test_labels_do_not_overlap(beside, tmp_path):
  """Fails if the names of two lines that end together cannot be read."""
  import figures

  ends = {"low": 3.9, "a": 5.0, "b\nb": 5.1, "c": 5.2, "far": 9.0}
  with figures.new_figure(tmp_path / "x.svg", size=(4, 3)) as (_, axis):
    for name, y in ends.items():
      axis.plot([0, 1], [0, y], label=name)
    axis.plot([0, 0.5], [0, 1], label="short")
    axis.plot([0, 1], [1, 1])
    figures.label_lines(axis)
    boxes = {x.get_text(): x.get_window_extent() for x in axis.texts}
    (place,) = (x.xyann for x in axis.texts if x.get_text() == "far")
  assert set(boxes) == {*ends, "short"}
  assert boxes["low"].y1 < boxes["a"].y0
  assert boxes["a"].y1 < boxes["b\nb"].y0 < boxes["b\nb"].y1 < boxes["c"].y0
  assert place == (8, 0)


@pytest.mark.parametrize(
  ("size", "written"),
  [
    (0.5, "0 MiB"),
    (44.2, "44 MiB"),
    (1024, "1 GiB"),
    (12700, "12.4 GiB"),
    (370000, "361 GiB"),
    (12.6e6, "12 TiB"),
  ],
)
def test_sizes_are_written_with_their_unit(beside, size, written):
  """Fails if a figure shows GiB as MiB."""
  import figures

  assert figures.format_mebibytes(size) == written
