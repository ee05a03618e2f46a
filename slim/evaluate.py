"""Evaluates a trained model: `python -m slim.evaluate --workdir=runs/x`.

Either each window of T tokens starts from the zero state, as in training, or
one state is carried from the first token of the split to the last.
"""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from absl import flags

from slim import command_line
from slim.files import local_path, writing
from slim.runs import metrics
from slim.runs.workdir import read_config
from slim.training.build import (
  create_experiment,
  create_split,
  evaluation_chunk,
  restore_run,
)
from slim.training.steps import make_evaluation_step
from slim.types import Batch, Params, State, Sums


def sum_batches(
  evaluation_step: Callable[[Params, State, Batch], tuple[Sums, State]],
  params: Params,
  initial_state: State,
  batches: Iterable[Batch],
  *,
  chunk_size: int,
  carry_state: bool,
) -> Sums:
  """Sums the loss and the hits over batches, chunk by chunk.

  Args:
    evaluation_step: Compiled, from `make_evaluation_step`.
    params: Parameters.
    initial_state: The state before the first token.
    batches: Of one shape [B, T].
    chunk_size: C, tokens; the memory needed is that of one chunk.
    carry_state: Whether a batch continues where the one before it ended,
      instead of starting from `initial_state`.

  Returns:
    Sums over all tokens, formed in float64.
  """
  parts = []
  state = initial_state
  for batch in batches:
    if not carry_state:
      state = initial_state
    for start in range(0, batch.inputs.shape[1], chunk_size):
      chunk = Batch(*(x[:, start : start + chunk_size] for x in batch))
      sums, state = evaluation_step(params, state, chunk)
      parts.append(sums)
  # Read at the end only, so that the device never waits for the host.
  parts = jax.device_get(parts)
  return Sums(*(np.sum(x, dtype=np.float64) for x in zip(*parts, strict=True)))


def evaluate_workdir(
  workdir: str, split: str, carry_state: bool, data_path: str | None = None
) -> dict[str, Any]:
  """Evaluates the newest checkpoint of a run, and appends a record of it.

  Args:
    workdir: The folder of the run.
    split: "train", "validation" or "test".
    carry_state: One state through the whole split, instead of windows of T
      tokens from the zero state.
    data_path: Where the data is now, if it has moved since the training.

  Returns:
    The record, as appended to `workdir/evaluations.jsonl`.

  Raises:
    ValueError: If there is nothing to evaluate, or the data cannot be read or
      is not what the run was trained on.
  """
  workdir = local_path("--workdir", workdir)
  config = read_config(workdir)
  if carry_state and config.data.name == "copying":
    raise ValueError(
      "--carry_state needs a text, whose windows continue one another, got "
      f"config.data.name={config.data.name!r}"
    )
  if carry_state and config.model.attention != "linear":
    raise ValueError(
      "--carry_state needs a state of one size, that of "
      "config.model.attention='linear', got a run with "
      f"{config.model.attention!r}"
    )
  if data_path is not None:
    with config.unlocked():
      config.data.path = local_path("--data_path", data_path)
  batch_size = 1 if carry_state else config.train.batch_size
  try:
    dataset = create_split(config, split, batch_size)
    trained_on = create_split(config, "train", config.train.batch_size)
  except ValueError as error:
    if not str(error).startswith("config.data.path: "):
      raise
    raise ValueError(f"{error}; --data_path names another place") from error
  experiment = create_experiment(config)
  state, facts = restore_run(workdir, experiment)
  if facts["data_fingerprint"] != trained_on.fingerprint:
    raise ValueError(
      f"config.data.path: {config.data.path or config.data.name} is not what "
      f"the run in {workdir} was trained on any more: restore the file, or "
      "name its place with --data_path"
    )
  with jax.default_matmul_precision(config.matmul_precision):
    sums = sum_batches(
      jax.jit(make_evaluation_step(experiment.model)),
      state.params,
      experiment.model.init_state(batch_size),
      dataset.evaluation_batches(),
      chunk_size=evaluation_chunk(config),
      carry_state=carry_state,
    )
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
  """Returns a record in one line for people."""
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
    "data_path", None, "Where the data is now, instead of config.data.path."
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
