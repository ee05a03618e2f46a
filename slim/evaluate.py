"""Evaluates a trained model: `python -m slim.evaluate --workdir=runs/x`.

Either each window of T tokens starts from the initial state, as in training, or
one state is carried from the first token of the split to the last.
"""

import math
import os
from typing import Any

import jax
from absl import flags

from slim import command_line
from slim.files import local_path
from slim.runs import choosing, metrics
from slim.runs.checkpoints import is_checkpoint
from slim.runs.compilation_cache import define_cache, use_cache
from slim.runs.fingerprints import check_data, fingerprint_data
from slim.runs.stages import stage
from slim.runs.trained import load_run
from slim.settings import SettingError
from slim.training import build
from slim.training.evaluation import make_evaluation

# Files that may have moved: names in config.data, by the flag of the location.
_MOVABLE = {"data_path": "path", "document_lengths": "document_lengths"}


def evaluate_workdir(
  workdir: str,
  split: str,
  carry_state: bool,
  data_path: str | None = None,
  document_lengths: str | None = None,
  step: str = "latest",
) -> dict[str, Any]:
  """Evaluates a checkpoint of a run.

  Args:
    workdir: The folder of the run, or of one checkpoint.
    split: "train", "validation" or "test".
    carry_state: Carry one state through the whole split, instead of starting
      each window of T tokens from the initial state.
    data_path: The new location of the data, if it has moved since training.
    document_lengths: Likewise of `config.data.document_lengths`.
    step: "latest", the newest checkpoint that is readable; "best"; or a step.

  Returns:
    The record, with "eval/loss" (nats per token) and others.

  Raises:
    ValueError: If there is no checkpoint, or the data cannot be read or is not
      what the run was trained on.
  """
  config, experiment, state, stored = load_run(workdir, step)
  if carry_state:
    _check_can_carry(config, experiment.model)
  moved = {"data_path": data_path, "document_lengths": document_lengths}
  batch_size, rows = config.train.batch_size, build.rows_at_once(config)
  if carry_state:
    batch_size = rows = 1
  dataset, fingerprints = _open_data(config, split, batch_size, moved)
  if carry_state and not dataset.is_continuous:
    raise ValueError(
      "--carry_state needs a text, whose windows follow one another, got "
      f"config.data.name={config.data.name!r}"
    )
  check_data(
    config,
    workdir,
    stored["fingerprints"],
    fingerprints,
    advice="pass its location with --data_path",
  )
  with jax.default_matmul_precision(config.matmul_precision):
    evaluate = make_evaluation(
      experiment.model,
      dataset,
      batch_size=rows,
      chunk_size=build.evaluation_chunk(config),
      carry_state=carry_state,
    )
    with stage(f"evaluating the {split} split"):
      sums = evaluate(state.params)
  return {
    "step": int(state.step),
    "data": dataset.name,
    "split": split,
    "carry_state": carry_state,
    "sequence_length": config.data.sequence_length,
    "tokens": int(sums.weight),
  } | metrics.means("eval", sums)


def _check_can_carry(config, model):
  """Raises ValueError unless a model can carry one state through a split."""
  if model.state_kind != "fixed":
    raise ValueError(
      "--carry_state needs a state of fixed size, such as that of "
      "config.model.attention='linear', got a run with "
      f"{config.model.attention!r}"
    )
  if model.max_tokens is not None:
    raise ValueError(
      "--carry_state needs a model for any number of tokens, and config.model."
      f"positions={config.model.positions!r} has positions for "
      f"{model.max_tokens}: evaluate without --carry_state"
    )


def _open_data(config, split, batch_size, moved):
  """Creates a split, and fingerprints all; `moved` has new paths by flag."""
  for flag, path in moved.items():
    if path is not None:
      with config.unlocked():
        config.data[_MOVABLE[flag]] = local_path(f"--{flag}", path)
  try:
    dataset = build.create_split(config, split, batch_size)
    return dataset, fingerprint_data(config)
  except SettingError as error:
    for flag, name in _MOVABLE.items():
      if error.setting == f"config.data.{name}":
        raise ValueError(
          f"{error}; if the data has moved, pass its location with --{flag}"
        ) from error
    raise


def save_record(workdir: str, record: dict[str, Any]) -> None:
  """Appends a record to `workdir/evaluations.jsonl`.

  A checkpoint that is evaluated alone stays as it is.

  Args:
    workdir: The folder of the run, or of one checkpoint.
    record: The record, as from `evaluate_workdir`.

  Raises:
    ValueError: If a number is not finite, or the file cannot be written.
  """
  for name, value in record.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise ValueError(
        f"{name} is {value}, so it is not recorded: evaluate another --step "
        f"than {record['step']}"
      )
  workdir = local_path("--workdir", workdir)
  if not is_checkpoint(workdir):
    path = os.path.join(workdir, "evaluations.jsonl")
    metrics.append_record(path, record)


def describe(record: dict[str, Any]) -> str:
  """Formats a record as one line for people."""
  state = (
    "one state carried through the split"
    if record["carry_state"]
    else f"windows of {record['sequence_length']} tokens from the zero state"
  )
  return (
    f"step {record['step']}  {record['split']} loss {record['eval/loss']:.4f}  "
    f"bpc {record['eval/bpc']:.4f}  accuracy {record['eval/accuracy']:.2%}  "
    f"({record['tokens']:,} tokens of {record['data']}, {state})"
  )


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  workdir = flags.DEFINE_string(
    "workdir", None, "Folder of the run.", required=True
  )
  split = flags.DEFINE_enum(
    "split", "validation", ["train", "validation", "test"], "Split of the data."
  )
  carry_state = flags.DEFINE_bool(
    "carry_state", False, "Carry one state through the whole split."
  )
  data_path = flags.DEFINE_string(
    "data_path", None, "New location of the data; replaces config.data.path."
  )
  document_lengths = flags.DEFINE_string(
    "document_lengths",
    None,
    "New location of this file; replaces config.data.document_lengths.",
  )
  step = flags.DEFINE_string("step", "latest", choosing.HELP)

  cache = define_cache()

  def evaluate():
    use_cache(cache.value)
    record = evaluate_workdir(
      workdir.value,
      split.value,
      carry_state.value,
      data_path.value,
      document_lengths.value,
      step.value,
    )
    print(describe(record), flush=True)  # A full disk cannot lose it.
    save_record(workdir.value, record)

  command_line.run(evaluate, argv)


if __name__ == "__main__":
  main()
