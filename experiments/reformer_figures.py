"""Figures of `reformer_memory`."""

from typing import Any

import numpy as np
from figures import (
  BLUE,
  GRAY,
  format_mebibytes,
  label_lines,
  line_style,
  new_figure,
  set_log_sizes,
  set_log_ticks,
)
from reformer_models import MODELS


def rows_of(
  rows: list[dict[str, Any]], figure: str, model: str
) -> list[dict[str, Any]]:
  """Returns the rows of a model in a figure."""
  return [
    row for row in rows if (row["figure"], row["model"]) == (figure, model)
  ]


def draw(rows: list[dict[str, Any]], path: Any) -> None:
  """Draws activations against hashes, layers and length."""
  panels = {
    "hashes": ("hashes", "rounds of hashing"),
    "layers": ("layers", "layers"),
    "growth in length": ("length", "tokens"),
  }
  with new_figure(path, 1, 3, size=(12, 4.5), sharey=True) as (_, axes):
    for axis, (name, (size, label)) in zip(axes, panels.items(), strict=True):
      for model in MODELS:
        points = [
          (row[size], row["activation_MiB"])
          for row in rows_of(rows, name, model)
        ]
        if points:
          axis.plot(
            *zip(*points, strict=True),
            label=model.replace(", ", ",\n"),
            **line_style(model),
          )
      published = {
        row[size]: row["published_MiB"]
        for row in rows
        if row["figure"] == name and row["published_MiB"] is not None
      }
      if published:
        x, y = zip(*published.items(), strict=True)
        axis.plot(
          x, y, "+", color=GRAY, markersize=7, label="Reformer,\nas reported"
        )
      ticks = sorted({row[size] for row in rows if row["figure"] == name})
      if size == "layers":
        axis.set_xticks(ticks)
      else:
        set_log_ticks(axis, ticks)
      axis.set_yscale("log")
      axis.set_xlabel(label)
    axes[0].set_title("activations of one gradient", loc="left")
    set_log_sizes(axes[0])
    label_lines(*axes)


def draw_timelines(
  rows: list[dict[str, Any]], timelines: dict[str, dict[str, Any]], path: Any
) -> None:
  """Draws activations over the program, a panel for each model."""
  height = -(-len(timelines) // 4)
  with new_figure(
    path, height, 4, size=(11, 2.2 * height), sharey=True, squeeze=False
  ) as (_, axes):
    for axis in axes.flat[len(timelines) :]:
      axis.set_axis_off()
    for axis, (model, timeline) in zip(
      axes.flat, timelines.items(), strict=False
    ):
      live = timeline["live_MiB"]
      edges = np.linspace(0, 1, len(live) + 1)
      axis.stairs(live, edges, fill=True, color=BLUE)
      axis.set_ylim(1, 2e4)
      axis.set_xlim(0, 1)
      axis.set_xticks([])
      title = f"{model}\n{format_mebibytes(timeline['peak_MiB'])}"
      (row,) = rows_of(rows, "models", model)
      if row["published_MiB"] is not None:
        title += f", reported {format_mebibytes(row['published_MiB'])}"
      axis.set_title(title, fontsize="small")
    set_log_sizes(axes[0, 0])
    for axis in axes[-1]:
      axis.set_xlabel("instructions, each loop once", fontsize="small")
