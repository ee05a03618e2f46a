"""Measure the memory of a program without running it.

    report = memory_report(fn, *args)  # Totals, as XLA assigns them.
    timeline = memory_timeline(fn, *args)  # Live buffers, with source lines.
    plot_reports({"fn": report}, "report.svg")
    plot_timelines({"fn": timeline}, "timeline.svg")

`python -m slim.memory --config=…` measures the gradient of a config.
"""

from slim.memory.rendering import plot_reports, plot_timelines
from slim.memory.report import MemoryReport, memory_report
from slim.memory.timeline import Buffer, MemoryTimeline, memory_timeline

__all__ = [
  "Buffer",
  "MemoryReport",
  "MemoryTimeline",
  "memory_report",
  "memory_timeline",
  "plot_reports",
  "plot_timelines",
]
