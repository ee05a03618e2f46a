"""One style for all figures, readable on light and on dark pages."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

GRAY = "#797979"  # Has a contrast of at least 3.9 with white and GitHub's dark.
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
  "legend.fontsize": "small",
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


def share_legend(figure: Any, columns: int) -> None:
  """Draws one legend of all panels below them."""
  handles = {}
  for axis in figure.axes:
    lines, labels = axis.get_legend_handles_labels()
    handles |= dict(zip(labels, lines, strict=True))
  figure.legend(
    handles.values(), handles, loc="outside lower center", ncols=columns
  )
