"""Evaluates a trained model: `python -m slim.evaluate --workdir=runs/x`.

Either each window of T tokens starts from the initial state, as in training, or
one state is carried from the first token of the split to the last.
"""

import json
import os
from typing import Any

import jax
from absl import flags

from slim import command_line
from slim.files import local_path, writing
from slim.runs import metrics
from slim.runs.checkpoints import restore_run
from slim.runs.workdir import read_config
from slim.settings import SettingError
from slim.training import build
from slim.training.evaluation import make_evaluation


def evaluate_workdir(
  workdir: str, split: str, carry_state: bool, data_path: str | None = None
) -> dict[str, Any]:
  """Evaluates the newest checkpoint of a run, and appends a record of it.

  Args:
    workdir: The folder of the run.
    split: "train", "validation" or "test".
    carry_state: Carry one state through the whole split, instead of starting
      each window of T tokens from the initial state.
    data_path: The new location of the data, if it has moved since training.

  Returns:
    The record, as appended to `workdir/evaluations.jsonl`.

  Raises:
    ValueError: If there is no checkpoint, or the data cannot be read or is not
      what the run was trained on.
  """
  workdir = local_path("--workdir", workdir)
  config = read_config(workdir)
  experiment = build.create_experiment(config)
  if carry_state and experiment.model.state_kind != "fixed":
    raise ValueError(
      "--carry_state needs a state of fixed size, such as that of "
      "config.model.attention='linear', got a run with "
      f"{config.model.attention!r}"
    )
  if data_path is not None:
    with config.unlocked():
      config.data.path = local_path("--data_path", data_path)
  batch_size = 1 if carry_state else config.train.batch_size
  try:
    dataset = build.create_split(config, split, batch_size)
    trained_on = build.create_split(config, "train", config.train.batch_size)
  except SettingError as error:
    if error.setting != "config.data.path":
      raise
    raise ValueError(
      f"{error}; if the data has moved, pass its location with --data_path"
    ) from error
  if carry_state and not dataset.is_continuous:
    raise ValueError(
      "--carry_state needs a text, whose windows follow one another, got "
      f"config.data.name={config.data.name!r}"
    )
  state, metadata = restore_run(
    workdir, jax.eval_shape(lambda: build.init(experiment))
  )
  if metadata["data_fingerprint"] != trained_on.fingerprint:
    raise ValueError(
      f"config.data.path: {config.data.path or config.data.name} is no longer "
      f"what the run in {workdir} was trained on: restore the file, or pass "
      "its location with --data_path"
    )
  with jax.default_matmul_precision(config.matmul_precision):
    evaluate = make_evaluation(
      experiment.model,
      dataset,
      batch_size=batch_size,
      chunk_size=build.evaluation_chunk(config),
      carry_state=carry_state,
    )
    sums = evaluate(state.params)
  record = {
    "step": int(state.step),
    "data": dataset.name,
    "split": split,
    "carry_state": carry_state,
    "sequence_length": config.data.sequence_length,
    "tokens": int(sums.weight),
  } | metrics.means("eval", sums)
  path = os.path.join(workdir, "evaluations.jsonl")
  with writing(path), open(path, "a") as file:
    file.write(json.dumps(record) + "\n")
  return record


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
  command_line.run(
    lambda: print(
      describe(
        evaluate_workdir(
          workdir.value, split.value, carry_state.value, data_path.value
        )
      )
    ),
    argv,
  )


if __name__ == "__main__":
  main()
