"""What a run reports: means over tokens, one JSON line per record."""

import json
import math
import os
import types
from typing import Any

import jax

from slim.files import writing
from slim.types import Params, Sums


def means(prefix: str, sums: Sums) -> dict[str, float]:
  """Forms the means of a split or of a stretch of training.

  Args:
    prefix: "train" or "eval", the first part of the names.
    sums: Totals over tokens; the weight is not 0.

  Returns:
    `prefix/loss`, nats a token; `prefix/bpc`, bits a character (a token);
    `prefix/accuracy`, in [0, 1].
  """
  loss = float(sums.nll) / float(sums.weight)
  return {
    f"{prefix}/loss": loss,
    f"{prefix}/bpc": loss / math.log(2),
    f"{prefix}/accuracy": float(sums.correct) / float(sums.weight),
  }


class MetricsWriter:
  """Appends records to `workdir/metrics.jsonl`, one JSON object a line.

  TensorBoard's event files are a copy of these for looking at. A process that
  is killed may lose the last seconds of the copy.
  """

  def __init__(self, workdir: str, last_step: int, tensorboard: bool = False):
    """Opens the file, and drops what a resumed run is going to repeat.

    Args:
      workdir: An existing folder.
      last_step: The step that training continues from. Later records are
        dropped, and so is a line that was being written when the run stopped;
        TensorBoard is told to hide later events.
      tensorboard: Whether to write event files to the folder, too.

    Raises:
      ValueError: If a record is damaged, or tensorboardX is missing.
    """
    path = os.path.join(workdir, "metrics.jsonl")
    if os.path.exists(path):
      kept = [r for r in read_records(path) if r["step"] <= last_step]
      with writing(path):
        with open(f"{path}.tmp", "w") as file:
          file.writelines(json.dumps(record) + "\n" for record in kept)
        os.replace(f"{path}.tmp", path)
    self._path = path
    self._file = open(path, "a", buffering=1)  # Written line by line.
    self._events = None
    if tensorboard:
      self._events = import_tensorboardx().SummaryWriter(
        workdir,
        purge_step=last_step + 1,
        flush_secs=5,
        # Or a run that is resumed within a second would write over the file.
        filename_suffix=f".{last_step}",
      )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Appends a record.

    Args:
      step: Updates done so far.
      values: Numbers by name.
    """
    with writing(self._path):
      self._file.write(json.dumps({"step": step} | values) + "\n")
    if self._events:
      for name, value in values.items():
        self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Closes the files."""
    with writing(self._path):
      self._file.close()
    if self._events:
      self._events.close()


def import_tensorboardx() -> types.ModuleType:
  """Imports the package that writes event files, which is no dependency.

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
      f"'{error}': `pip install tensorboardX`, or leave the setting out"
    ) from error
  return tensorboardX


def read_records(path: str) -> list[dict[str, Any]]:
  """Reads records of steps, leaving out a last line that was half written.

  Args:
    path: A file of JSON lines.

  Returns:
    The records, in the order of the file.

  Raises:
    ValueError: If another line than the last is damaged.
  """
  with open(path) as file:
    lines = file.readlines()
  records = []
  for number, line in enumerate(lines, 1):
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if isinstance(record, dict) and "step" in record:
      records.append(record)
    elif number < len(lines):
      raise ValueError(
        f"{path}: line {number} is no JSON record with a step: repair it, or "
        "remove it"
      )
  return records


def parameter_table(params: Params) -> str:
  """Counts the parameters, in total and of each top-level module.

  Args:
    params: The parameters as nested dictionaries.

  Returns:
    Lines of text, the total last.
  """
  rows = {
    name: sum(x.size for x in jax.tree.leaves(module))
    for name, module in params.items()
  }
  rows["total"] = sum(rows.values())
  width = max(map(len, rows))
  return "\n".join(f"  {k:<{width}}  {n:>13,}" for k, n in rows.items())
