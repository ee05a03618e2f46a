"""The figures of `reformer_memory`."""

from typing import Any

import numpy as np
from reformer_models import FORMULAS, MODELS

from slim.memory import MemoryTimeline


def select(
  rows: list[dict[str, Any]], figure: str, model: str
) -> list[dict[str, Any]]:
  """Returns the rows of a model in a figure."""
  return [
    row for row in rows if (row["figure"], row["model"]) == (figure, model)
  ]


def draw(rows: list[dict[str, Any]], path: Any) -> None:
  """Draws activations against hashes, layers and length."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figures = {
    "hashes": ("hashes", "rounds of hashing"),
    "layers": ("layers", "layers"),
    "growth in length": ("length", "tokens"),
  }
  colors = {model: f"C{i % 10}" for i, model in enumerate([*FORMULAS])}
  figure, axes = pyplot.subplots(1, 3, figsize=(12, 4), sharey=True)
  for axis, (name, (size, label)) in zip(axes, figures.items(), strict=True):
    for model in MODELS:
      points = select(rows, name, model)
      if points:
        x = [row[size] for row in points]
        y = [row["activation_MiB"] for row in points]
        axis.plot(x, y, "o-", color=colors[model], markersize=3, label=model)
    published = {
      row[size]: row["published_MiB"]
      for row in rows
      if row["figure"] == name and row["published_MiB"] is not None
    }
    if published:
      axis.plot(*zip(*published.items(), strict=True), "k+", label="published")
    if size != "layers":
      axis.set_xscale("log", base=2)
    ticks = sorted({row[size] for row in rows if row["figure"] == name})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_yscale("log")
    axis.set_xlabel(label)
    axis.grid(alpha=0.3)
  axes[0].set_ylabel("activations, MiB")
  handles = {}
  for axis in axes:
    handles |= dict(
      zip(*reversed(axis.get_legend_handles_labels()), strict=True)
    )
  figure.legend(
    handles.values(),
    handles,
    loc="lower center",
    ncols=4,
    fontsize="small",
  )
  figure.tight_layout(rect=(0, 0.13, 1, 1))
  figure.savefig(path, metadata={"Date": None})


def draw_timelines(
  rows: list[dict[str, Any]], timelines: dict[str, MemoryTimeline], path: Any
) -> None:
  """Draws the activations over a gradient, a panel for each model."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  height = -(-len(timelines) // 4)
  figure, axes = pyplot.subplots(
    height, 4, figsize=(13, 2.3 * height), sharey=True, squeeze=False
  )
  for axis in axes.flat[len(timelines) :]:
    axis.set_axis_off()
  for axis, (model, timeline) in zip(
    axes.flat, timelines.items(), strict=False
  ):
    # A pixel each is enough, and no peak may be lost.
    parts = np.array_split(timeline.live, min(300, len(timeline.live)))
    most = [part.max() / 2**20 for part in parts]
    axis.fill_between(np.linspace(0, 1, len(most)), most, step="mid", alpha=0.5)
    axis.set_yscale("log")
    axis.set_ylim(1, 2e4)
    axis.set_xlim(0, 1)
    axis.set_xticks([])
    title = f"{model}\n{timeline.peak_bytes / 2**20:,.0f} MiB"
    (row,) = select(rows, "models", model)
    if row["published_MiB"] is not None:
      title += f" (published, weights too: {row['published_MiB']:,})"
    axis.set_title(title, fontsize="small")
  for axis in axes[:, 0]:
    axis.set_ylabel("MiB")
  for axis in axes[-1]:
    axis.set_xlabel("instructions, loops once", fontsize="small")
  figure.tight_layout()
  figure.savefig(path, metadata={"Date": None})
