"""Means, and records that survive a crash."""

import json
import logging
import math
import sys

import pytest
from tensorboardX.proto import event_pb2

from slim.runs import metrics
from slim.types import Sums
from tests.commands import limit_files


def test_means_are_formed_from_sums():
  """Fails if padded tokens count, or nats are reported as bits."""
  values = metrics.means("eval", Sums(nll=6.0, correct=1.0, weight=4.0))
  assert values == {
    "eval/loss": 1.5,
    "eval/bpc": 1.5 / math.log(2),
    "eval/accuracy": 0.25,
  }


def test_writer_appends_one_record_a_line(tmp_path):
  """Fails if the file cannot be read while the run goes on."""
  writer = metrics.MetricsWriter(str(tmp_path), 0)
  writer.write(1, {"train/loss": 2.5})
  writer.write(2, {"train/loss": 2.0})
  text = (tmp_path / "metrics.jsonl").read_text()  # Not closed yet.
  writer.close()
  assert [json.loads(line) for line in text.splitlines()] == [
    {"step": 1, "train/loss": 2.5},
    {"step": 2, "train/loss": 2.0},
  ]


def test_a_full_disk_names_the_file(tmp_path):
  """Fails if the message names no file, as that of `write` does."""
  writer = metrics.MetricsWriter(str(tmp_path), 0)
  with pytest.raises(ValueError) as error, limit_files(5):
    writer.write(1, {})
  writer.close()
  assert str(error.value) == (
    f"cannot write {tmp_path}/metrics.jsonl: File too large: free space there"
  )


def test_writer_drops_what_will_be_repeated(tmp_path):
  """Fails if a resumed run repeats records, or keeps half lines."""
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 5}\n{"step": 10}\n{"step": 15}\n{"step": 2')
  writer = metrics.MetricsWriter(str(tmp_path), 10)
  writer.write(15, {})
  writer.close()
  assert [r["step"] for r in metrics.read_records(str(path))] == [5, 10, 15]


def read_events(folder):
  """Reads all events in the order of the files, as TensorBoard does."""
  events = []
  for path in sorted(folder.glob("events.out.tfevents.*")):
    data = path.read_bytes()
    while data:  # 8 bytes of length, 4 of checksum, the event, 4 of checksum.
      size = int.from_bytes(data[:8], "little")
      events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
      data = data[16 + size :]
  return events


def read_scalars(folder):
  """Lists the points that TensorBoard shows, as (step, name, value)."""
  shown = []
  for event in read_events(folder):
    if event.session_log.status == event_pb2.SessionLog.START:
      shown = [scalar for scalar in shown if scalar[0] < event.step]
    for value in event.summary.value:
      shown.append((event.step, value.tag, value.simple_value))
  return shown


def test_tensorboard_shows_the_same_numbers(tmp_path):
  """Fails if TensorBoard shows other numbers."""
  writer = metrics.MetricsWriter(str(tmp_path), 0, tensorboard=True)
  writer.write(1, {"train/loss": 2.5, "memory/activation_bytes": 1024})
  writer.write(2, {"train/loss": 2.0})
  writer.close()
  assert read_scalars(tmp_path) == [
    (1, "train/loss", 2.5),
    (1, "memory/activation_bytes", 1024),
    (2, "train/loss", 2.0),
  ]
  assert metrics.read_records(str(tmp_path / "metrics.jsonl")) == [
    {"step": 1, "train/loss": 2.5, "memory/activation_bytes": 1024},
    {"step": 2, "train/loss": 2.0},
  ]


def test_tensorboard_hides_what_will_be_repeated(tmp_path):
  """Fails if its curves repeat steps, or lose earlier ones."""
  for last_step, steps in [(0, [5, 10, 15]), (10, [15, 20])]:
    writer = metrics.MetricsWriter(str(tmp_path), last_step, tensorboard=True)
    for step in steps:
      writer.write(step, {"x": last_step})
    writer.close()
  expected = [(5, "x", 0), (10, "x", 0), (15, "x", 10), (20, "x", 10)]
  assert read_scalars(tmp_path) == expected


def test_no_event_files_unless_asked_for(tmp_path):
  """Fails if every run needs an optional package."""
  metrics.MetricsWriter(str(tmp_path), 0).close()
  assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_missing_package_is_one_line(monkeypatch):
  """Fails if a missing package ends in a traceback."""
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(ValueError, match="`pip install tensorboardX`") as error:
    metrics.import_tensorboardx()
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("line", ['{"st', '{"x": 1}', "3", "null", '["step"]'])
def test_damage_within_the_file_is_not_dropped_silently(tmp_path, line):
  """Fails if a record that was edited by hand vanishes."""
  path = tmp_path / "metrics.jsonl"
  text = f'{{"step": 5}}\n{line}\n{{"step": 15}}\n'
  path.write_text(text)
  with pytest.raises(ValueError, match="line 2 is not a JSON record with a"):
    metrics.MetricsWriter(str(tmp_path), 10)
  assert path.read_text() == text


@pytest.mark.parametrize("line", ['{"st', "{}", "3", '{"step": 10}'])
def test_a_last_line_that_is_no_record_is_left_out(tmp_path, line):
  """Fails if a run that stopped while writing cannot be resumed."""
  path = tmp_path / "metrics.jsonl"
  path.write_text(f'{{"step": 5}}\n{line}')
  assert metrics.read_records(str(path)) == [{"step": 5}]


def test_lost_records_are_noticed(tmp_path, caplog):
  """Fails if a curve ends before its checkpoint without a word."""
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 5}\n{"step": 10}\n')
  for last_step, last_record, expected in (
    (12, 10, [5, 10]),
    (7, 5, [5]),
    (15, 15, [5, 10]),
  ):
    assert not caplog.messages
    with caplog.at_level(logging.WARNING, "slim"):
      found = metrics.read_run(str(tmp_path), last_step, last_record)
    assert [record["step"] for record in found] == expected
  assert caplog.messages == [
    f"{path} ends at step 10, and had a record of step 15: records are lost"
  ]
  assert metrics.read_run(str(tmp_path / "none"), 0, 0) == []


def test_records_are_json(tmp_path):
  """Fails if NaN is written, or read, which other programs cannot."""
  path = tmp_path / "file.jsonl"
  with pytest.raises(ValueError):
    metrics.append_record(str(path), {"step": 1, "x": float("nan")})
  path.write_text('{"step": NaN}\n{"step": 2}\n')
  with pytest.raises(ValueError, match="line 1 is not a JSON record"):
    metrics.read_records(str(path))


def test_a_half_written_record_is_dropped(tmp_path):
  """Fails if a full disk damages the record after it, too."""
  path = tmp_path / "file.jsonl"
  path.write_text('{"step": 1}\n{"st')
  metrics.append_record(str(path), {"step": 2})
  assert metrics.read_records(str(path)) == [{"step": 1}, {"step": 2}]
