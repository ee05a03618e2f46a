"""Runs all experiments, and compares README and docs with what they found.

--mode=quick runs each experiment with --quick. Then it checks every number of
README and docs against the committed results, and what holds at any size
against the quick ones. It names each sentence that does not hold, and then ends
with exit code 1.

--mode=full runs everything at full size: many hours. Experiments whose results
are those of today's code are skipped. Training runs in runs/ are resumed, and
kept if they have ended: remove them to train with today's code. What was
measured of older runs is measured again each time. Then it writes the numbers
and tables of README and docs, as --mode=write does.

--mode=check only checks the committed results: seconds.

  make reproduce
  make reproduce-full ARGS='--enwik8=FILE --ptb=FOLDER --shakespeare=FILE'
"""

import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

import jax
from absl import flags
from arguments import define_data
from claims import documents
from record import print_table
from up_to_date import is_up_to_date

from slim import command_line

_MODE = flags.DEFINE_enum(
  "mode", "check", ["check", "quick", "full", "write"], "What to do."
)
_ENWIK8 = define_data("enwik8", "enwik8 or a part of it, for --mode=full.")
_PTB = define_data("ptb", "Folder of PTB, for --mode=full.")
_SHAKESPEARE = define_data("shakespeare", "Tiny Shakespeare, for --mode=full.")
_FOLDER = pathlib.Path(__file__).parent
_CURVES = "runs/learning_curves"


class Experiment(NamedTuple):
  """A script at full size."""

  script: str
  arguments: tuple[str, ...] = ()  # {enwik8} … are the flags of that name.
  result: str = ""  # A file of results/, if not named like the script.
  needs_gpu: bool = False  # At full size.

  @property
  def name(self) -> str:
    """Its file of results/."""
    return self.result or self.script


EXPERIMENTS = (
  Experiment("memory_vs_length"),
  *(
    Experiment(
      "step_time",
      (f"--configurations={name}", f"--repetitions={repetitions}"),
      f"step_time_{name}",
    )
    for name, repetitions in (("II", 9), ("III", 5), ("IV", 3))
  ),
  *(
    Experiment(
      "slim_tradeoff",
      ("--text={enwik8}", f"--configurations={name}"),
      f"slim_tradeoff_{name}",
    )
    for name in ("I", "II", "III", "IV")
  ),
  Experiment("million_tokens", ("--text={enwik8}",)),
  Experiment("compile_time"),
  *(
    Experiment(
      "gradient_error",
      ("--text={enwik8}", f"--configurations={name}"),
      f"gradient_error_{name}",
    )
    for name in ("I", "II", "III", "IV")
  ),
  Experiment(
    "gradient_error",
    (
      "--text={enwik8}",
      "--configurations=II",
      "--dtype=bfloat16",
      "--steps=100",
    ),
    "gradient_error_II_bfloat16",
  ),
  *(
    Experiment(
      "learning_curves",
      (f"--tasks={task}", *steps, "--ptb={ptb}", "--enwik8={enwik8}"),
      f"learning_curves_{task}",
    )
    for task, steps in (
      ("copying", ()),
      ("ptb", ("--steps=3000",)),
      ("enwik8", ("--steps=300",)),
    )
  ),
  Experiment("finetune", (f"--run={_CURVES}/ptb-full",), "finetune_ptb"),
  Experiment(
    "finetune",
    (f"--run={_CURVES}/enwik8-full", "--sequences=500"),
    "finetune_enwik8",
  ),
  *(
    Experiment(
      "finetune_rates",
      (f"--run={_CURVES}/{name}-full", *sequences),
      f"finetune_rates_{name}",
    )
    for name, *sequences in (("ptb",), ("enwik8", "--sequences=30"))
  ),
  Experiment("generation_speed"),
  Experiment("run_costs", ("--text={shakespeare}",)),
  Experiment("model_curves", ("--text={shakespeare}",)),
  Experiment("peers"),
  Experiment("peers_libraries", ("--rounds=7",)),
  Experiment("softmax_memory"),
  Experiment("softmax_blocks", (), "softmax_blocks_cpu"),
  Experiment("targets"),
  Experiment("scale"),
  Experiment("scale_model"),
  Experiment("recurrences"),
  Experiment("hybrids"),
  Experiment("mixers", ("--task=recall",), "mixers_recall"),
  Experiment("mixers", ("--task=text", "--text={shakespeare}"), "mixers_text"),
  Experiment("on_gpu", needs_gpu=True),
  Experiment("reformer_memory"),
  Experiment("reversible_time", ("--rounds=3",)),
  Experiment("lsh_time", ("--rounds=3",), "lsh_time_cpu"),
  Experiment("duplication"),
  Experiment("plan_accuracy", ("--config=ptb_slim",), "plan_accuracy_ptb_slim"),
  Experiment(
    "plan_accuracy", ("--config=enwik8_slim",), "plan_accuracy_enwik8_slim"
  ),
)

# Results of the kernels as they were, for a comparison; not to be run again.
OF_OLDER_CODE = {"targets_before"}


def main() -> None:
  """Runs what --mode asks for, and checks."""
  failures = []
  if _MODE.value == "quick":
    failures += run_quick()
  if _MODE.value == "full":
    failures += run_full()
  if _MODE.value in ("full", "write"):
    documents.write()
  failures += documents.check()
  if failures:
    print("\n".join(failures), file=sys.stderr)
    sys.exit(1)
  print("README and docs agree with the results")


def run_quick() -> list[str]:
  """Runs each script with --quick; returns what failed or does not hold."""
  failures, rows = [], []
  for script, needs_gpu in dict.fromkeys(
    (x.script, x.needs_gpu) for x in EXPERIMENTS
  ):
    start = time.perf_counter()
    if run(script, ("--quick",), needs_gpu):
      failures.append(f"{script}.py --quick failed, see above")
    rows.append({"script": script, "seconds": time.perf_counter() - start})
  print_table(rows)
  print(f"together {sum(x['seconds'] for x in rows) / 60:.1f} minutes")
  return failures + list(documents.check(quick=True))


def run_full() -> list[str]:
  """Runs what has no results of today's code; returns what failed."""
  failures = []
  data = {
    "enwik8": _ENWIK8.value,
    "ptb": _PTB.value,
    "shakespeare": _SHAKESPEARE.value,
  }
  for name, value in data.items():
    if value is None:
      raise ValueError(f"--{name} is missing: --mode=full trains on this text")
  for experiment in EXPERIMENTS:
    if is_up_to_date(experiment.name, experiment.script, experiment.arguments):
      print(f"{experiment.name}: kept, as the code has not changed since")
      continue
    if experiment.needs_gpu and jax.default_backend() != "gpu":
      print(f"{experiment.name}: left out, as there is no GPU")
      continue
    arguments = tuple(x.format(**data) for x in experiment.arguments)
    if run(experiment.script, arguments, experiment.needs_gpu):
      failures.append(
        f"{experiment.script}.py failed, see above: the same command tries it "
        "again"
      )
  return failures


def run(script: str, arguments: tuple[str, ...], needs_gpu: bool) -> int:
  """Runs a script, on the CPU if it needs no GPU; returns its exit code."""
  print(f"== {script} {' '.join(arguments)}", flush=True)
  command = [sys.executable, str(_FOLDER / f"{script}.py"), *arguments]
  environment = dict(os.environ)
  if not needs_gpu:
    environment["JAX_PLATFORMS"] = "cpu"
  return subprocess.run(command, cwd=documents.ROOT, env=environment).returncode


if __name__ == "__main__":
  command_line.run(main)
