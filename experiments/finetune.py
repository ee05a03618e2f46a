"""Fine-tuning in low memory: the table of the SLiM paper.

A trained language model adapts to a text by one step of gradient descent. For
each sequence of T bytes, drawn at random offsets from the validation split, the
step minimizes the loss of the first half, and the table shows the bits per byte
of the second half before and after it. The gradient is computed by `full` and
by `slim` with several chunk sizes C, which needs less memory.

--run is a run of learning_curves.py. What has been computed with its weights
stays in --workdir, and a larger --sequences continues. The result has the bits
of each sequence and a checksum of --run.

  python experiments/finetune.py --run=runs/learning_curves/ptb-full
  python experiments/finetune.py --run=runs/learning_curves/enwik8-full \
    --sequences=500
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from arguments import (
  define_count,
  define_quick,
  define_workdir,
  open_workdir,
)
from finetune_steps import (
  define_run,
  first_half,
  make_adaptation,
  make_score,
  restore,
  trained_run,
)
from measurements import median_seconds
from record import COMMIT, join_commits, print_table, save
from training_runs import checksum, complete_records

from slim import command_line
from slim.memory.report import report_of
from slim.training import build
from slim.training.gradients import COMPILER_OPTIONS, make_value_and_grad
from slim.types import Batch, Params

_RUN = define_run()
_SEQUENCES = define_count("sequences", 5000, "Sequences, as in the paper.")
_WORKDIR = define_workdir("runs/finetune")
_QUICK = define_quick("64 short sequences and a small model: a minute.")
_LEARNING_RATE = 0.01  # Of the paper.
# C by the name of the data: those of the paper, and a small one.
_CHUNK_SIZES = {"ptb": (512, 256, 64), "enwik8": (2048, 1366, 256)}
_QUICK_CHUNK_SIZES = (32, 16, 4)
_ROUNDS = 5


def main() -> None:
  """Fine-tunes, prints and saves."""
  with open_workdir(_WORKDIR, _QUICK) as workdir:
    run = trained_run(_RUN, _QUICK, workdir)
    measure(run, workdir, 64 if _QUICK.value else _SEQUENCES.value)


def measure(run: str, workdir: pathlib.Path, num_sequences: int) -> None:
  """Fine-tunes on sequences, and records the table of those done so far."""
  pretrained = restore(run)
  config, name = pretrained.config, pretrained.config.data.name
  if name not in _CHUNK_SIZES:
    raise ValueError(
      f"--run must be a run on {' or '.join(_CHUNK_SIZES)}, got one on {name}"
    )
  methods: dict[str, dict[str, Any]] = {"full": {"method": "full"}}
  for chunk_size in _QUICK_CHUNK_SIZES if _QUICK.value else _CHUNK_SIZES[name]:
    methods[f"slim-{chunk_size}"] = dict(method="slim", chunk_size=chunk_size)
  gradients = {
    key: make_value_and_grad(pretrained.model, **how)
    for key, how in methods.items()
  }
  workdir.mkdir(parents=True, exist_ok=True)
  name_of_run = pathlib.Path(run).resolve().name
  weights = checksum(pretrained.params)
  path = workdir / f"{name_of_run}-{weights}-{'-'.join(methods)}.jsonl"
  done = complete_records(path)
  score = make_score(pretrained.model, config.gradient.chunk_size)
  before = jax.jit(score)
  with jax.default_matmul_precision(config.matmul_precision):
    adapt = {
      key: jax.jit(
        make_adaptation(gradient, score),
        compiler_options=COMPILER_OPTIONS,
      )
      for key, gradient in gradients.items()
    }
    dataset = build.create_split(config, "validation", batch_size=1)
    rates = jnp.array([_LEARNING_RATE])
    with open(path, "a", buffering=1) as file:
      for number in range(len(done), num_sequences):
        batch = dataset.batch(number)
        found = {"before": before(pretrained.params, batch)}
        for key, function in adapt.items():
          found[key] = function(pretrained.params, batch, rates)[0]
        bits = {key: round(float(x), 7) for key, x in found.items()}
        record = {"step": number, "commit": COMMIT} | bits
        file.write(json.dumps(record) + "\n")
        done.append(record)
        if number % 100 == 99:
          print(f"{number + 1} of {num_sequences} sequences", flush=True)
    costs = measure_costs(gradients, pretrained.params, dataset.batch(0))
  done = done[:num_sequences]
  known = [*pretrained.commits, *(x["commit"] for x in done)]
  commit = join_commits([*known, COMMIT])
  rows = [row | {"commit": commit} for row in summarize(methods, done, costs)]
  print_table(rows)
  save(
    f"finetune_{name}",
    rows,
    quick=_QUICK.value,
    data=dataset.description,
    trained_steps=pretrained.step,
    sequences=len(done),
    sequences_of_paper=5000,
    learning_rate=_LEARNING_RATE,
    weights=weights,
    bits={key: [x[key] for x in done] for key in ("before", *methods)},
  )


def measure_costs(
  gradients: dict[str, Callable], params: Params, batch: Batch
) -> dict[str, dict[str, float]]:
  """Returns the memory and time of the gradient by each method."""
  half = first_half(batch)
  calls, memory = {}, {}
  for key, gradient in gradients.items():
    compiled = (
      jax.jit(gradient, compiler_options=COMPILER_OPTIONS)
      .lower(params, half)
      .compile()
    )
    memory[key] = report_of(compiled).temporary_bytes / 2**20
    calls[key] = lambda compiled=compiled: compiled(params, half)
  seconds = median_seconds(calls, _ROUNDS)
  return {
    key: {
      "activation_MiB": memory[key],
      "seconds": seconds[key],
      "over_full": seconds[key] / seconds["full"],
    }
    for key in gradients
  }


def summarize(
  methods: dict[str, dict[str, Any]],
  records: list[dict[str, Any]],
  costs: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
  """Makes a row for each method: means over sequences, and distances."""
  bits = {
    key: np.array([x[key] for x in records]) for key in ("before", *methods)
  }
  return [
    {
      "method": how["method"],
      "chunk_size": how.get("chunk_size"),
      "bpc_before": float(bits["before"].mean()),
      "bpc_after": float(bits[key].mean()),
      "largest_distance_to_full": float(abs(bits[key] - bits["full"]).max()),
      **costs[key],
    }
    for key, how in methods.items()
  ]


if __name__ == "__main__":
  command_line.run(main)
