"""Live ranges, read from the text that the compiler writes."""

import pytest

from slim.memory.live_ranges import LiveRanges

RANGES = """HloLiveRange (max 2):
  InstructionSequence:
    0:x.1
    1:sine
  BufferLiveRange:
    sine{}:1-2
"""
ASSIGNMENT = """BufferAssignment:
allocation 0: size 8, preallocated-temp:
 value: <2 sine @0> (size=8,offset=0): f32[2]{0}
"""


@pytest.mark.parametrize(
  ("ranges", "assignment", "message"),
  [
    (None, ASSIGNMENT, "'no live ranges'"),
    ("HloLiveRange:\n", ASSIGNMENT, "'a program without instructions'"),
    (RANGES.replace("{}", "[]"), ASSIGNMENT, "'value: <2 sine @0>"),
    (RANGES, ASSIGNMENT.replace("size=8", "bytes=8"), "'value: <2 sine @0>"),
  ],
)
def test_unknown_format_raises(tmp_path, ranges, assignment, message):
  """Fails if a new format makes memory vanish from the timeline."""
  if ranges is not None:
    (tmp_path / "f-live-range.txt").write_text(ranges)
  (tmp_path / "f-buffer-assignment.txt").write_text(assignment)
  (tmp_path / "f.txt").write_text("")
  with pytest.raises(ValueError, match="as in jax 0.10 to 0.12, got ") as error:
    LiveRanges(str(tmp_path))
  assert message in str(error.value)


def test_newest_value_of_a_place(tmp_path):
  """Fails if a buffer is traced to its earlier value."""
  (tmp_path / "f-live-range.txt").write_text(RANGES + "    old{}:0-1\n")
  old = " value: <1 old @0> (size=8,offset=0): f32[2]{0}\n"
  (tmp_path / "f-buffer-assignment.txt").write_text(ASSIGNMENT + old)
  (tmp_path / "f.txt").write_text("")
  [value] = LiveRanges(str(tmp_path)).values_at(1)
  assert value.name == "sine"


def test_shared_bytes_count_once(tmp_path):
  """Fails if an in-place update counts twice."""
  (tmp_path / "f-live-range.txt").write_text(
    RANGES + "    parts{0}:0-1\n    copy{}:1-1\n    last{}:2-2\n"
  )
  (tmp_path / "f-buffer-assignment.txt").write_text(
    ASSIGNMENT.replace("size 8", "size 12")
    + " value: <3 parts{0} (phi) @0> (size=8,offset=4): f32[2]{0}\n"
    + "allocation 1: size 64, parameter 0:\n"
    + " value: <4 x.1 @0> (size=64,offset=0): f32[16]{0}\n"
    + "allocation 2: size 4, page 1, preallocated-temp:\n"
    + " value: <5 copy @0> (size=4,offset=0): f32[]\n"
  )
  (tmp_path / "f.txt").write_text("")
  ranges = LiveRanges(str(tmp_path))
  assert [ranges.count_bytes(i) for i in range(2)] == [8, 12 + 4]
