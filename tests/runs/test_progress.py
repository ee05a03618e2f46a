"""Reports: means over the steps since the last one, read one step late."""

import logging
import math
import time

import jax.numpy as jnp
import pytest

from slim.runs import metrics, progress
from slim.types import Sums


class Records:
  """Keeps records in memory."""

  def __init__(self):
    self.records = []
    self.last_step = 0

  def write(self, step, values):
    """Adds a record."""
    self.records.append({"step": step} | values)
    self.last_step = step


def make(**settings):
  """Returns a Progress of 10 steps, and its records."""
  writer = Records()
  defaults = dict(
    step=0,
    num_steps=10,
    log_every=2,
    tokens_per_step=8,
    flops_per_step=100,
    learning_rate=lambda step: 0.5 * step,
    pauses={"evaluation": 4, "save": 3},
  )
  return progress.Progress(writer, **defaults | settings), writer.records


def add(report, step, nll, norm=1.0):
  """Adds a step with 4 tokens."""
  sums = Sums(jnp.float32(nll), jnp.float32(1), jnp.float32(4))
  report.add(step, sums, jnp.float32(norm), 1024)


def test_a_step_is_read_when_the_next_one_is_dispatched():
  """Fails if the device waits for the host at every step."""
  report, records = make()
  add(report, 1, 2.0)
  add(report, 2, 4.0)
  assert not records
  add(report, 3, 4.0)
  assert [record["step"] for record in records] == [2]
  assert records[0]["train/loss"] == 6.0 / 8
  assert records[0]["train/bpc"] == 6.0 / 8 / math.log(2)
  assert records[0]["memory/activation_bytes"] == 1024
  assert records[0]["train/learning_rate"] == 0.5  # Of the second update.
  assert records[0]["train/tokens"] == 2 * 8


def test_a_report_needs_no_cpu_device(monkeypatch):
  """Fails if a run with JAX_PLATFORMS=cuda ends at its first report."""

  def local_devices(backend=None):
    raise RuntimeError(f"Unknown backend {backend}")

  monkeypatch.setattr(progress.jax, "local_devices", local_devices)
  report, records = make(log_every=1)
  add(report, 1, 2.0)
  report.flush()
  assert records[0]["train/learning_rate"] == 0


def test_a_resumed_report_is_that_of_an_uninterrupted_run():
  """Fails if the first report after a resume covers fewer steps."""
  whole, whole_records = make(log_every=3)
  first, _ = make(log_every=3)
  for step in range(1, 4):
    add(whole, step, step)
  whole.flush()
  for step in range(1, 3):
    add(first, step, step)
  first.flush()
  second, records = make(log_every=3, step=2, stored=first.to_record())
  add(second, 3, 3)
  second.flush()
  assert records[0]["train/loss"] == whole_records[0]["train/loss"]


def test_the_time_of_earlier_processes_counts(monkeypatch):
  """Fails if the wall time of a run starts anew when it is resumed."""
  now = 100.0
  monkeypatch.setattr(time, "monotonic", lambda: now)
  first, _ = make()
  now += 5.0
  second, records = make(step=1, stored=first.to_record())
  now += 2.0
  add(second, 2, 1.0)
  second.flush()
  assert records[0]["time/seconds"] == 7.0


def test_the_last_step_is_reported():
  """Fails if a curve lacks the end of the run."""
  report, records = make(log_every=4)
  for step in range(1, 11):
    add(report, step, 1.0)
  report.flush()
  assert [record["step"] for record in records] == [4, 8, 10]
  # A longer run reports all of it.
  assert report.to_record()["window"] == [2.0, 2.0, 8.0]


def test_speed_leaves_pauses_out(monkeypatch):
  """Fails if an evaluation looks like slow training."""
  now = 0.0
  monkeypatch.setattr(time, "perf_counter", lambda: now)
  report, records = make()
  add(report, 1, 1.0)
  report.flush()
  now += 1.0
  with report.paused("evaluation"):
    now += 100.0
  add(report, 2, 1.0)
  now += 3.0
  report.flush()
  assert records[0]["time/tokens_per_second"] == 2 * 8 / 4.0
  assert records[0]["time/model_flops_per_second"] == 2 * 100 / 4.0


def test_the_line_says_how_long_it_takes(monkeypatch, caplog):
  """Fails if a user cannot see how long a run takes."""
  now = 0.0
  monkeypatch.setattr(time, "perf_counter", lambda: now)
  report, _ = make()
  with caplog.at_level(logging.INFO, "slim"):
    add(report, 1, 4.0)
    now += 60.0
    add(report, 2, 4.0)
    report.flush()
  assert caplog.messages == [
    "step 2/10  loss 1.0000  bpc 1.4427  0 tokens/s  activations 0.0 MiB  "
    "left 0:04:00"
  ]


def test_the_time_left_counts_evaluations_and_saves(monkeypatch, caplog):
  """Fails if a run of hours promises to end in minutes."""
  now = 0.0
  monkeypatch.setattr(time, "perf_counter", lambda: now)
  report, _ = make()
  add(report, 1, 4.0)
  with report.paused("evaluation"):
    now += 100.0
  with report.paused("save"):
    now += 7.0
  with report.paused("save"):
    now += 13.0
  with report.paused("profile"):
    now += 1000.0
  now += 2.0
  add(report, 2, 4.0)
  with caplog.at_level(logging.INFO, "slim"):
    report.flush()
  # 8 steps of 1 s, evaluations after 4, 8 and 10, saves after 3, 6, 9 and 10.
  seconds = 8 + 3 * 100 + 4 * 10
  assert caplog.messages[0].endswith(f"left 0:0{seconds // 60}:{seconds % 60}")


def test_an_evaluation_is_recorded_and_logged(caplog):
  """Fails if the validation loss is not reported."""
  report, records = make()
  sums = Sums(nll=5.0, correct=9.0, weight=10.0)
  with caplog.at_level(logging.INFO, "slim"):
    report.report_evaluation(4, sums)
  [record] = records
  assert record.items() >= ({"step": 4} | metrics.means("eval", sums)).items()
  assert record["train/tokens"] == 0 and record["train/learning_rate"] == 1.5
  assert caplog.messages == [
    "step 4/10  validation loss 0.5000  bpc 0.7213  accuracy 90.00 %"
  ]


@pytest.mark.parametrize(
  ("nll", "norm", "name"),
  [(math.nan, 1.0, "loss"), (math.inf, 1.0, "loss"), (1.0, math.nan, "grad")],
)
def test_what_is_not_finite_stops_the_run(nll, norm, name):
  """Fails if a run continues for days after its weights are NaN."""
  report, records = make()
  add(report, 1, nll, norm)
  with pytest.raises(FloatingPointError, match=f"the {name}.* of step 1 is "):
    add(report, 2, 1.0)
  with pytest.raises(FloatingPointError, match="config.optimizer.learning_r"):
    add(report, 3, math.nan)
    report.flush()
  assert not records


def test_an_evaluation_without_targets_is_named():
  """Fails if documents of one token end in a ZeroDivisionError."""
  report, _ = make()
  with pytest.raises(ValueError, match="config.train.eval_batches: .* have no"):
    report.report_evaluation(3, Sums(0.0, 0.0, 0.0))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_no_number_stops_the_run(loss):
  """Fails if an update that broke the weights is saved."""
  report, records = make()
  with pytest.raises(FloatingPointError) as error:
    report.report_evaluation(3, Sums(loss, 1.0, 1.0))
  assert str(error.value).startswith(
    f"the validation loss of step 3 is {loss}: lower config.optimizer.learning"
  )
  assert not records
