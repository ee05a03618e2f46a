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
    if os.path.exists(path):
      kept = [r for r in read_records(path) if r["step"] <= last_step]
      with writing(path):
        with open(f"{path}.tmp", "w") as file:
          file.writelines(json.dumps(record) + "\n" for record in kept)
        os.replace(f"{path}.tmp", path)
    self._path = path
    self._file = open(path, "a", buffering=1)  # Flush each line.
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
    ValueError: If a line other than the last is damaged.
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
        f"{path}: line {number} is not a JSON record with a step: repair or "
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
