"""Show reports and timelines as lines of text and as figures."""

import collections
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from slim.files import check_new_file, write_file
from slim.memory.report import MemoryReport
from slim.memory.timeline import MemoryTimeline

_MIB = 2**20


def describe_peak(timeline: MemoryTimeline, rows: int = 10) -> list[str]:
  """Lists the largest buffers at the peak of a timeline.

  Args:
    timeline: The timeline.
    rows: Number of lines. Equal buffers, such as those of several layers, share
      a line.

  Returns:
    Lines with MiB, number and shape, operation, and source line.
  """
  counts = sorted(
    collections.Counter(timeline.buffers).items(),
    key=lambda x: x[1] * x[0].size,
    reverse=True,
  )
  here = os.getcwd() + os.sep
  table = [
    (
      f"{count * buffer.size / _MIB:,.2f}",
      f"{count} x {buffer.shape}",
      buffer.operation,
      buffer.source.removeprefix(here),
    )
    for buffer, count in counts[:rows]
  ]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  return [
    f"{size:>{widths[0]}}  {shape:<{widths[1]}}  {operation:<{widths[2]}}  "
    f"{source}".rstrip()
    for size, shape, operation, source in table
  ]


def plot_reports(reports: Mapping[str, MemoryReport], output: str) -> None:
  """Draws a bar per report: arguments, outputs and temporary memory.

  Args:
    reports: The reports by the label of their bar.
    output: A new file. Its suffix sets the format, as in "report.svg".

  Raises:
    ValueError: If the file cannot be written, or matplotlib is missing.
  """
  figure = _new_figure(8, 1.5 + 0.5 * len(reports))
  axis = figure.subplots()
  parts = {
    "arguments": [x.argument_bytes for x in reports.values()],
    # Outputs that overwrite arguments are in the bar already.
    "outputs": [x.output_bytes - x.aliased_bytes for x in reports.values()],
    "temporary": [x.temporary_bytes for x in reports.values()],
  }
  left = [0.0] * len(reports)
  for label, sizes in parts.items():
    widths = [size / _MIB for size in sizes]
    axis.barh(list(reports), widths, left=left, label=label)
    left = [a + b for a, b in zip(left, widths, strict=True)]
  axis.invert_yaxis()  # Put the first bar on top.
  axis.set_xlabel("MiB")
  axis.legend(fontsize="x-small")
  _save(figure, output)


def plot_timelines(
  timelines: Mapping[str, MemoryTimeline], output: str
) -> None:
  """Draws temporary memory over the program, one panel per timeline.

  The largest buffers at the peak are listed below each panel.

  Args:
    timelines: The timelines by the title of their panel.
    output: A new file. Its suffix sets the format, as in "timeline.svg".

  Raises:
    ValueError: If the file cannot be written, or matplotlib is missing.
  """
  figure = _new_figure(7 * len(timelines), 4.5)
  axes = figure.subplots(1, len(timelines), sharey=True, squeeze=False)[0]
  for axis, (name, timeline) in zip(axes, timelines.items(), strict=True):
    x = range(len(timeline.live))
    axis.fill_between(x, timeline.live / _MIB, step="post", alpha=0.5)
    axis.set_xlim(0, len(timeline.live))
    axis.set_ylim(0)
    peak = f"{timeline.peak_bytes / _MIB:,.1f} MiB at the peak"
    axis.set_title(f"{name}: {peak}, largest buffers below", fontsize="medium")
    axis.set_xlabel("instructions in program order (loop bodies once)")
    axis.text(
      0,
      -0.18,
      "\n".join(describe_peak(timeline, rows=5)),
      family="monospace",
      fontsize="x-small",
      transform=axis.transAxes,
      verticalalignment="top",
    )
  axes[0].set_ylabel("temporary memory, MiB")
  _save(figure, output)


def check_output(output: str) -> None:
  """Checks that a figure can be written to a file, before long work.

  Args:
    output: The file.

  Raises:
    ValueError: If the file exists, its suffix is no figure format, its folder
      is missing, or matplotlib is not installed.
  """
  kinds = _new_figure(1, 1).canvas.get_supported_filetypes()
  if pathlib.Path(output).suffix.removeprefix(".") not in kinds:
    raise ValueError(
      "output must be the name of a figure, such as memory.svg, memory.png or "
      f"memory.pdf, got {output}"
    )
  check_new_file("output", output)


def _new_figure(width: float, height: float) -> Any:
  """Returns a figure, sized in inches, that needs no display."""
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ValueError(
      "output needs the package matplotlib to draw the figure, got "
      f"'{error}': `pip install matplotlib`"
    ) from error
  return Figure(figsize=(width, height))


def _save(figure: Any, output: str) -> None:
  """Writes a figure to a new file."""
  check_output(output)
  kind = pathlib.Path(output).suffix.removeprefix(".")
  data = io.BytesIO()
  figure.savefig(data, format=kind, bbox_inches="tight")
  write_file(output, data.getvalue(), "output")
