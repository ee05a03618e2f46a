"""Values traced through the text of a program."""

import jax
import pytest

from slim.memory.source_lines import Origin, Origins

LIBRARY = f"{jax.__path__[0]}/numpy/reductions.py"

# A loop that carries a number, a stack that it fills, and `h`, which it only
# reads. Frame 3 is a line of a library, called by frame 2.
PROGRAM = """HloModule jit_f, is_scheduled=true

FileNames
1 "/home/me/model.py"
2 "LIBRARY"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=11 end_line=11 column=2 end_column=3}
2 {file_name_id=1 function_name_id=1 line=22 end_line=22 column=2 end_column=3}
3 {file_name_id=2 function_name_id=1 line=33 end_line=33 column=2 end_column=3}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}


%push (param_0: f32[9,4], param_1: f32[4], param_2: s32[]) -> f32[9,4] {
  %param_0 = f32[9,4]{1,0} parameter(0)
  %param_1 = f32[4]{0} parameter(1)
  %param_2 = s32[] parameter(2)
  %bitcast.1 = f32[1,4]{1,0} bitcast(%param_1)
  ROOT %update.1 = f32[9,4]{1,0} dynamic-update-slice(%param_0, %bitcast.1, \
%param_2), metadata={op_name="jit(f)/while/body/update" stack_frame_id=1}
}

%body (state: (s32[], f32[9,4], f32[4])) -> (s32[], f32[9,4], f32[4]) {
  %state = (s32[], f32[9,4]{1,0}, /*index=2*/f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = f32[9,4]{1,0} get-tuple-element(%state), index=1
  %h.1 = f32[4]{0} copy(%state#2)
  %tanh.1 = f32[4]{0} tanh(%h.1), metadata={op_name="jit(f)/while/body/tanh" \
stack_frame_id=2}
  %push.1 = f32[9,4]{1,0} fusion(%stack, %tanh.1, %i), kind=kLoop, calls=%push
  ROOT %next = (s32[], f32[9,4]{1,0}, f32[4]{0}) tuple(%i, %push.1, %state#2)
}

%test (state.1: (s32[], f32[9,4], f32[4])) -> pred[] {
  %state.1 = (s32[], f32[9,4]{1,0}, f32[4]{0}) parameter(0)
  ROOT %done = pred[] constant(false)
}

ENTRY %main (x.1: f32[4]) -> f32[9,4] {
  %x.1 = f32[4]{0} parameter(0), metadata={op_name="x"}
  %zero = s32[] constant(0)
  %zeros = f32[9,4]{1,0} broadcast(%zero), dimensions={}
  %h = f32[4]{0} exponential(%x.1), metadata={op_name="jit(f)/jit(g)/exp" \
stack_frame_id=3}
  %first = (s32[], f32[9,4]{1,0}, f32[4]{0}) tuple(%zero, %zeros, %h)
  %while.1 = (s32[], f32[9,4]{1,0}, f32[4]{0}) while(%first), condition=%test, \
body=%body, metadata={op_name="jit(f)/while" stack_frame_id=1}
  %dot.1 = f32[4]{0} dot(%h, %h)
  %copy.1 = f32[4]{0} copy(%x.1)
  ROOT %sum = f32[] reduce(%dot.1, %zero), metadata={op_name="jit(f)/sum" \
stack_frame_id=1}
}
""".replace("LIBRARY", LIBRARY)


@pytest.mark.parametrize(
  ("name", "element", "expected"),
  [
    # A line inside a library becomes that of its caller.
    ("h", "", Origin("exp", "/home/me/model.py:22")),
    # A stack is traced to its rows, in the loop and after it.
    ("state", "1", Origin("tanh", "/home/me/model.py:22")),
    ("push.1", "", Origin("tanh", "/home/me/model.py:22")),
    ("while.1", "1", Origin("tanh", "/home/me/model.py:22")),
    # What a loop only passes on was computed before it.
    ("state", "2", Origin("exp", "/home/me/model.py:22")),
    ("state.1", "2", Origin("exp", "/home/me/model.py:22")),
    ("h.1", "", Origin("exp", "/home/me/model.py:22")),
    ("while.1", "2", Origin("exp", "/home/me/model.py:22")),
    # The line of the first user that has one.
    ("dot.1", "", Origin("dot", "/home/me/model.py:11")),
    ("copy.1", "", Origin("x", "")),
    ("zeros", "", Origin("broadcast", "")),
  ],
)
def test_values_are_traced_to_their_origin(name, element, expected):
  """Fails if a loop, a copy or a library is named instead of the line."""
  assert Origins(PROGRAM).find(name, element) == expected


def test_callers_may_be_counted_from_one():
  """Fails if lines are one call off when XLA numbers callers correctly."""
  text = PROGRAM
  for wrong, right in [(1, 0), (2, 1), (3, 2)]:
    text = text.replace(
      f"parent_frame_id={wrong}}}", f"parent_frame_id={right}}}"
    )
  assert text != PROGRAM
  assert Origins(text).find("h") == Origins(PROGRAM).find("h")


def test_innermost_line_if_all_lines_are_in_libraries():
  """Fails if an installed model has no source lines."""
  text = PROGRAM.replace("/home/me/model.py", LIBRARY)
  assert Origins(text).find("h") == Origin("exp", f"{LIBRARY}:33")
