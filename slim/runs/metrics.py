"""What a run reports: means over tokens, one JSON line per record."""

import json
import logging
import math
import os
import types
from typing import Any

from slim.files import open_to_append, write_file, writing
from slim.types import Sums

_LOG = logging.getLogger("slim.runs.metrics")


def means(prefix: str, sums: Sums) -> dict[str, float]:
  """Divides totals into the means of a split or of a report.

  Args:
    prefix: "train" or "eval", the prefix of the names.
    sums: Totals over tokens; the weight is not 0.

  Returns:
    `prefix/loss`, nats per token; `prefix/bpc`, bits per token (character);
    `prefix/accuracy`, in [0, 1].
  """
  loss = float(sums.nll) / float(sums.weight)
  return {
    f"{prefix}/loss": loss,
    f"{prefix}/bpc": loss / math.log(2),
    f"{prefix}/accuracy": float(sums.correct) / float(sums.weight),
  }


class MetricsWriter:
  """Appends records to `workdir/metrics.jsonl`, one JSON object per line.

  Event files for TensorBoard hold a copy. A process that is killed may lose the
  last seconds of the copy.
  """

  def __init__(self, workdir: str, last_step: int, tensorboard: bool = False):
    """Opens the file, and drops records that a resumed run will repeat.

    Args:
      workdir: An existing folder.
      last_step: The step from which training continues. Later records are
        dropped, and so is an incomplete last line. TensorBoard hides later
        events.
      tensorboard: Whether to write event files to the folder, too.

    Raises:
      ValueError: If a record is damaged, or tensorboardX is missing.
    """
    path = os.path.join(workdir, "metrics.jsonl")
    kept: list[dict[str, Any]] = []
    if os.path.exists(path):
      kept = [r for r in read_records(path) if r["step"] <= last_step]
      write_file(path, b"".join(map(_to_line, kept)))
    self._path = path
    self._file = open_to_append(path)
    self.last_step = kept[-1]["step"] if kept else 0  # Of the last record.
    self._events = None
    if tensorboard:
      self._events = import_tensorboardx().SummaryWriter(
        workdir,
        purge_step=last_step + 1,
        flush_secs=5,
        # Without it, a run resumed within a second overwrites the file.
        filename_suffix=f".{last_step}",
      )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends a record.

    Args:
      step: Updates done so far.
      values: Numbers by name.
    """
    with writing(self._path):
      self._file.write(_to_line({"step": step} | values))
      self._file.flush()
    self.last_step = step
    if self._events:
      for name, value in values.items():
        self._events.add_scalar(name, value, step)

  def sync(self) -> None:
    """Waits until all records are on the disk."""
    with writing(self._path):
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the files."""
    with writing(self._path):
      self._file.close()
    if self._events:
      self._events.close()


def import_tensorboardx() -> types.ModuleType:
  """Imports the optional package that writes event files.

  Returns:
    tensorboardX.

  Raises:
    ValueError: If it is missing.
  """
  try:
    import tensorboardX
  except ImportError as error:
    raise ValueError(
      "config.train.tensorboard needs the package tensorboardX, got "
      f"'{error}': `pip install tensorboardX`, or set it to False"
    ) from error
  return tensorboardX


def read_records(path: str) -> list[dict[str, Any]]:
  """Reads records of steps, without an incomplete last line.

  Args:
    path: A file of JSON lines.

  Returns:
    The records, in the order of the file.

  Raises:
    ValueError: If a line is damaged, other than a last one without its end.
  """
  with open(path, "rb") as file:
    lines = file.readlines()
  records = []
  for number, line in enumerate(lines, 1):
    record = _from_line(line)
    if record is not None:
      records.append(record)
    elif number < len(lines) or line.endswith(b"\n"):
      raise ValueError(
        f"{path}: line {number} is not a JSON record with a step: repair or "
        "remove it"
      )
  return records


def read_run(
  workdir: str, last_step: int, last_record: int
) -> list[dict[str, Any]]:
  """Reads the records of a run up to a step; logs if some are missing.

  Args:
    workdir: The folder of the run, which need not exist.
    last_step: The step of the checkpoint that is continued.
    last_record: The step of the last record when it was saved; 0: none.

  Returns:
    The records; none if there is no file.

  Raises:
    ValueError: If a line is damaged.
  """
  path = os.path.join(workdir, "metrics.jsonl")
  records = read_records(path) if os.path.exists(path) else []
  found = [record for record in records if record["step"] <= last_step]
  end = max((record["step"] for record in found), default=0)
  if end < last_record:
    _LOG.warning(
      "%s ends at step %d, and had a record of step %d: records are lost",
      path,
      end,
      last_record,
    )
  return found


def append_record(path: str, record: dict[str, Any]) -> None:
  """Appends a record to a file of JSON lines, and waits for the disk.

  An incomplete last line, which a full disk has left, is dropped.

  Args:
    path: The file; it is created if needed.
    record: Anything that JSON can hold; numbers are finite.

  Raises:
    ValueError: If it cannot be written.
  """
  with writing(path), open_to_append(path) as file:
    with open(path, "rb") as written:
      lines = written.read()
    if not lines.endswith(b"\n"):
      file.truncate(lines.rfind(b"\n") + 1)
    file.write(_to_line(record))
    file.flush()
    os.fsync(file.fileno())


def _to_line(record):
  """Writes a record as JSON, which has no NaN."""
  return json.dumps(record, allow_nan=False).encode() + b"\n"


def _from_line(line):
  """Reads a record with a step, or returns None."""
  try:
    record = json.loads(line, parse_constant=_refuse)
  except (ValueError, RecursionError):
    return None
  has_step = isinstance(record, dict) and type(record.get("step")) is int
  return record if has_step and line.endswith(b"\n") else None


def _refuse(name):
  """Refuses NaN and Infinity, which are no JSON."""
  raise ValueError(f"{name} is no JSON")
