"""Figure 4 of the SLiM paper, from the results of `learning_curves`."""

import os
from typing import Any, NamedTuple

from figures import (
  BLUE,
  GRAY,
  GREEN,
  OCHRE,
  PURPLE,
  RED,
  new_figure,
  share_legend,
)

# Label, color and width of each run, in the order of `list_runs`. The curves
# lie on each other, so each is thinner than the one below it.
_STYLES = (
  ("full", RED, 5.0),
  ("full, another seed", GRAY, 1.0),
  ("slim, larger C", BLUE, 3.2),
  ("slim, smaller C", OCHRE, 2.2),
  ("full then slim, larger C", GREEN, 1.4),
  ("full then slim, smaller C", PURPLE, 0.8),
)


class Panel(NamedTuple):
  """The training curves of a task."""

  title: str
  label: str  # What is measured.
  runs: list[str]  # In the order of the legend; some may not have been trained.
  record: dict[str, Any]  # A file of results.


def draw(panels: list[Panel], path: str | os.PathLike[str]) -> None:
  """Draws training curves beside each other.

  Args:
    panels: One for each task.
    path: The SVG file.
  """
  count = len(panels)
  with new_figure(path, 1, count, size=(3.6 * count, 3.6), squeeze=False) as (
    figure,
    (axes,),
  ):
    for axis, (title, label, runs, record) in zip(axes, panels, strict=True):
      for run, (name, color, width) in zip(runs, _STYLES, strict=True):
        curve = record["curves"].get(run)
        if curve is not None:
          x, y = zip(*curve, strict=True)
          axis.plot(x, y, color=color, linewidth=width, label=name)
      steps = max(row["steps"] for row in record["rows"])
      of = record["steps_of_paper"]
      axis.set_title(f"{title}: {steps:,} of {of:,} steps")
      axis.locator_params(axis="x", nbins=4)  # More would touch each other.
      axis.set_xlabel("step")
      axis.set_ylabel(f"training, {label}")
    share_legend(figure, columns=3)
