"""Exactly the selected steps are traced."""

import contextlib
import logging

import jax
import pytest

from slim.runs import profiler


class Calls:
  """A fake Progress and profiler of JAX; records the calls."""

  def __init__(self):
    self.calls = []

  def flush(self):
    """Waits for the device."""
    self.calls.append("flush")

  @contextlib.contextmanager
  def paused(self, kind):
    """Stops the clock."""
    self.calls.append("pause")
    yield
    self.calls.append("resume")

  def start_trace(self, folder):
    """Starts."""
    self.calls.append(f"start {folder}")

  def stop_trace(self):
    """Stops."""
    self.calls.append("stop")

  @contextlib.contextmanager
  def annotation(self, name, step_num):
    """Names a step."""
    yield
    self.calls.append(f"{name} {step_num}")


@pytest.fixture
def calls(monkeypatch):
  """The calls in their order."""
  result = Calls()
  monkeypatch.setattr(jax.profiler, "start_trace", result.start_trace)
  monkeypatch.setattr(jax.profiler, "stop_trace", result.stop_trace)
  monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", result.annotation)
  return result


BEGIN = ["flush", "pause", "start runs/x/profile", "resume"]
END = ["flush", "pause", "stop", "resume"]


@pytest.mark.parametrize(
  ("steps", "start", "expected"),
  [
    ((2, 4), 0, [*BEGIN, "train 2", "train 3", "train 4", *END]),
    ((2, 2), 0, [*BEGIN, "train 2", *END]),
    ((2, 4), 3, [*BEGIN, "train 4", *END]),  # A resumed run.
    ((2, 4), 4, []),
    ((), 0, []),
  ],
)
def test_the_steps_asked_for_are_traced(calls, steps, start, expected):
  """Fails if a trace has other steps, or half of the last one."""
  subject = profiler.Profiler("runs/x", steps, start, calls)
  for number in range(start + 1, 7):
    with subject.step(number):
      pass
  subject.close()
  assert calls.calls == expected


def test_a_run_that_stops_ends_its_trace(calls):
  """Fails if the next trace of the process cannot start."""
  subject = profiler.Profiler("runs/x", (2, 4), 0, calls)
  with pytest.raises(FloatingPointError), contextlib.closing(subject):
    with subject.step(2):
      raise FloatingPointError
  assert calls.calls == [*BEGIN, "stop"]


def test_the_log_says_where_the_trace_is(calls, caplog):
  """Fails if a user must search for the trace, or waits for none."""
  with caplog.at_level(logging.INFO, "slim"):
    with profiler.Profiler("runs/x", (2, 2), 0, calls).step(2):
      pass
    profiler.Profiler("runs/x", (2, 2), 2, calls)
  assert caplog.messages == [
    "trace of training steps: runs/x/profile",
    "config.profile.steps=(2, 2): already done, nothing to trace",
  ]
