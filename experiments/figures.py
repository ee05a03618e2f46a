"""One style for all figures, readable on light and on dark pages."""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

# Each color has a contrast of at least 3.9 with white and with GitHub's dark
# background, as figures have no background of their own. So all are about
# equally bright, and a line is told from others by its marker, too.
RED, OCHRE, GREEN, BLUE = "#d1454f", "#b07408", "#3f8f5b", "#3b82d6"
PINK, PURPLE, TEAL, GRAY = "#c4529c", "#9a62c8", "#1c8c8f", "#797979"
_LINES = {
  "full": (RED, "o"),
  "lax.scan(jax.checkpoint)": (OCHRE, "s"),
  "two-level lax.scan(jax.checkpoint)": (PURPLE, "P"),
  "slim, store": (PINK, "D"),
  "slim, sqrt": (GREEN, "^"),
  "slim, rewind": (BLUE, "v"),
  # Attention.
  "reference": (GRAY, "x"),
  "jax.nn": (RED, "o"),
  "paper": (OCHRE, "s"),
  "slim": (BLUE, "v"),
  "softmax": (RED, "o"),
  "lsh_1": (GREEN, "^"),
  "lsh_2": (TEAL, "D"),
  "lsh_4": (BLUE, "v"),
  # Models.
  "Transformer": (RED, "o"),
  "Reversible": (PINK, "D"),
  "Chunked reversible": (GRAY, "x"),
  "LSH Transformer, published form": (OCHRE, "s"),
  "Reformer, published form": (PURPLE, "P"),
  "Reformer": (GREEN, "^"),
  "SLiM × reversible": (BLUE, "v"),
}
_STYLE = {
  "axes.edgecolor": GRAY,
  "axes.grid": True,
  "axes.labelcolor": GRAY,
  "axes.spines.right": False,
  "axes.spines.top": False,
  "axes.titlecolor": GRAY,
  "axes.titlesize": "medium",
  "grid.alpha": 0.3,
  "grid.color": GRAY,
  "grid.linewidth": 0.5,
  "legend.fontsize": "medium",
  "legend.frameon": False,
  "legend.labelcolor": GRAY,
  "lines.markersize": 3,
  "svg.hashsalt": "slim",  # The same rows make the same file.
  "xtick.color": GRAY,
  "ytick.color": GRAY,
}


@contextlib.contextmanager
def new_figure(
  path: str | os.PathLike[str],
  rows: int = 1,
  columns: int = 1,
  *,
  size: tuple[float, float],
  layout: str | None = "constrained",
  **subplots: Any,
) -> Iterator[tuple[Any, Any]]:
  """Opens a figure to draw in, and writes it to a file at the end.

  Args:
    path: The file.
    rows: Rows of panels.
    columns: Columns of panels.
    size: Width and height in inches.
    layout: How panels are arranged, as for `matplotlib.figure.Figure`.
    **subplots: As for `matplotlib.figure.Figure.subplots`.

  Yields:
    The figure, and its axes as `subplots` returns them.
  """
  import matplotlib
  from matplotlib.figure import Figure  # Without pyplot it needs no display.

  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=size, layout=layout)
    yield figure, figure.subplots(rows, columns, **subplots)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def set_log_ticks(axis: Any, values: Iterable[int]) -> None:
  """Makes the x axis logarithmic, with ticks at some values."""
  values = sorted(set(values))
  axis.set_xscale("log", base=2)
  axis.set_xticks(values, [f"{value:,}" for value in values])
  axis.set_xticks([], minor=True)


def set_log_sizes(axis: Any) -> None:
  """Makes the y axis logarithmic, with ticks at powers of ten of MiB and GiB.

  Args:
    axis: A panel in which sizes in MiB are drawn.
  """
  axis.set_yscale("log")
  low, high = axis.get_ylim()
  ticks = [10**i * 2 ** (10 * unit) for unit in range(3) for i in range(3)]
  ticks = [tick for tick in ticks if low <= tick <= high]
  axis.set_yticks(ticks, map(format_mebibytes, ticks))
  axis.set_yticks([], minor=True)
  axis.set_ylim(low, high)


def format_mebibytes(size: float) -> str:
  """Writes a size as in "44 MiB", "12.4 GiB" or "361 GiB"."""
  unit = min(2, int(math.log2(max(1, size)) / 10))
  size /= 2 ** (10 * unit)
  number = f"{size:.0f}" if unit == 0 or size >= 100 else f"{size:.3g}"
  return f"{number} {('MiB', 'GiB', 'TiB')[unit]}"


def line_style(method: str) -> dict[str, Any]:
  """Returns how a method looks in all figures, as arguments of `Axes.plot`."""
  color, marker = _LINES[method]
  return {"color": color, "marker": marker}


def label_lines(*panels: Any, fontsize: float = 9) -> None:
  """Writes the label of each line at its end, in its color.

  Labels at the right edge of a panel are moved apart where they would overlap.
  Call this when limits, scales and all lines are set.

  Args:
    *panels: The panels of a figure. Lines without a label are left out.
    fontsize: In points.
  """
  figure = panels[0].figure
  figure.draw_without_rendering()  # Computes the limits and the layout.
  for axis in panels:
    lines = axis.get_lines()
    right = max(line.get_xdata()[-1] for line in lines)
    ends = []
    for line in lines:
      label = line.get_label()
      point = line.get_xdata()[-1], line.get_ydata()[-1]
      if not label.startswith("_"):
        height = axis.transData.transform(point)[1] * 72 / figure.dpi
        ends.append((height, point, label, line.get_color()))
    ends.sort()
    edge = [end for end in ends if end[1][0] == right]
    places = _spread(
      [end[0] for end in edge],
      [1.25 * fontsize * (end[2].count("\n") + 1) for end in edge],
    )
    moves = {
      end: place - end[0] for end, place in zip(edge, places, strict=True)
    }
    for end in ends:
      _, point, label, color = end
      axis.annotate(
        label,
        point,
        (8, moves.get(end, 0)),
        textcoords="offset points",
        color=color,
        fontsize=fontsize,
        va="center",
        annotation_clip=False,
      )


def _spread(centers: list[float], sizes: list[float]) -> list[float]:
  """Moves intervals apart where they overlap.

  Args:
    centers: Their centers, ascending.
    sizes: Their sizes.

  Returns:
    The new centers. Intervals that touch form a group, which stays around the
    mean of its old centers.
  """
  groups: list[list[int]] = []  # Of indices.

  def bounds(group):
    middle = sum(centers[i] for i in group) / len(group)
    half = sum(sizes[i] for i in group) / 2
    return middle - half, middle + half

  for i in range(len(centers)):
    groups.append([i])
    while len(groups) > 1 and bounds(groups[-2])[1] > bounds(groups[-1])[0]:
      groups[-2:] = [groups[-2] + groups[-1]]
  places = []
  for group in groups:
    low, _ = bounds(group)
    for i in group:
      places.append(low + sizes[i] / 2)
      low += sizes[i]
  return places


def share_legend(figure: Any, columns: int) -> None:
  """Draws one legend of all panels below them."""
  handles = {}
  for axis in figure.axes:
    lines, labels = axis.get_legend_handles_labels()
    handles |= dict(zip(labels, lines, strict=True))
  figure.legend(
    handles.values(), handles, loc="outside lower center", ncols=columns
  )
