"""Lines of text and figures."""

import os
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from slim.memory import (
  Buffer,
  MemoryReport,
  MemoryTimeline,
  plot_reports,
  plot_timelines,
)
from slim.memory.rendering import describe_peak

MIB = 2**20
SMALL = Buffer(MIB, "f32[512,512]", "tanh", f"{os.getcwd()}/model.py:7")
LARGE = Buffer(2 * MIB, "f32[1024,512]", "dot_general", "/home/you/a.py:12")
TIMELINE = MemoryTimeline(
  np.array([0, 5 * MIB, MIB]), (LARGE, SMALL, SMALL, SMALL), ""
)
REPORT = MemoryReport(4 * MIB, 3 * MIB, 2 * MIB, 5 * MIB, None)


def test_equal_buffers_share_line():
  """Fails if the layers of a model fill the list with equal lines."""
  assert describe_peak(TIMELINE) == [
    "3.00  3 x f32[512,512]   tanh         model.py:7",
    "2.00  1 x f32[1024,512]  dot_general  /home/you/a.py:12",
  ]
  assert len(describe_peak(TIMELINE, rows=1)) == 1
  assert describe_peak(MemoryTimeline(np.zeros(1), (), "")) == []


@pytest.mark.parametrize(
  ("plot", "value", "texts"),
  [
    (plot_reports, REPORT, ["arguments", "outputs", "temporary", "mine"]),
    (plot_timelines, TIMELINE, ["mine: 5.0 MiB at the peak", "model.py:7"]),
  ],
)
def test_figure_is_new_file(tmp_path, plot, value, texts):
  """Fails if a figure is empty, or overwrites another file."""
  output = f"{tmp_path}/memory.svg"
  with matplotlib.rc_context({"svg.fonttype": "none"}):  # Text, not curves.
    plot({"mine": value, "yours": value}, output)
  svg = (tmp_path / "memory.svg").read_text()
  for text in texts:
    assert text in svg
  with pytest.raises(ValueError, match="output must be a new file, and /"):
    plot({"mine": value}, output)
  assert (tmp_path / "memory.svg").read_text() == svg


def test_bar_ends_at_total(tmp_path, monkeypatch):
  """Fails if outputs that overwrite arguments are drawn twice."""
  drawn = []
  monkeypatch.setattr(Figure, "savefig", lambda x, *_, **__: drawn.append(x))
  plot_reports({"mine": REPORT}, f"{tmp_path}/memory.svg")
  [axis] = drawn[0].axes
  ends = [bar.get_x() + bar.get_width() for bar in axis.patches]
  assert max(ends) == REPORT.total_bytes / MIB


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("memory.xyz", "output must be the name of a figure, such as memory.svg"),
    ("memory", "output must be the name of a figure, such as memory.svg"),
    ("none/memory.svg", "output: cannot write /.*: its folder does not exist"),
  ],
)
def test_invalid_output_raises_one_line(tmp_path, name, message):
  """Fails if a wrong file name ends in a traceback."""
  with pytest.raises(ValueError, match=message) as error:
    plot_timelines({"mine": TIMELINE}, f"{tmp_path}/{name}")
  assert "\n" not in str(error.value)


def test_missing_package_raises_one_line(monkeypatch, tmp_path):
  """Fails if the message does not say what to install."""
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
  with pytest.raises(ValueError, match="`pip install matplotlib`") as error:
    plot_reports({"mine": REPORT}, f"{tmp_path}/memory.svg")
  assert "\n" not in str(error.value)
