"""What it costs to keep a run safe: checksums, saves, data.

- save: the time of one, and how much checksums and waiting for the disk add.
- run: the share of saves in the time of a run, at the default interval. A step
  with real data is timed beside one with a fixed batch, in turns.

  python experiments/run_costs.py --text=FILE [--quick]
"""

import statistics
import tempfile
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from arguments import define_count, define_quick, define_text, text_path
from configurations import load_config
from record import print_table, save

from slim import command_line
from slim import config as config_lib
from slim.files import sync
from slim.runs import checkpoints
from slim.runs.checkpoints import Checkpointer
from slim.runs.checksums import write_checksums
from slim.training import build
from slim.training.compiled import compile_steps
from slim.types import TrainState

_TEXT = define_text("A text to train on.")
_QUICK = define_quick("A small state and a small model.")
_ROUNDS = define_count("rounds", 9, "Timings of each program.")


def main() -> None:
  """Measures, prints and saves."""
  rows = [measure_save(2 if _QUICK.value else 100), measure_run()]
  for row in rows:
    print_table([row])
  save("run_costs", rows, quick=_QUICK.value)


def measure_save(megabytes: int) -> dict[str, object]:
  """Times saves of a state, and of their parts."""
  leaves = np.random.default_rng(0).normal(size=(16, megabytes * 15_625))
  params = {f"w_{i}": jnp.asarray(x, jnp.float32) for i, x in enumerate(leaves)}
  seconds = {"all": [], "checksums": [], "disk": []}

  def timed(function, name):
    """Adds the time of each call to a list."""

    def run(*arguments):
      start = time.perf_counter()
      function(*arguments)
      seconds[name].append(time.perf_counter() - start)

    return run

  checksums = timed(write_checksums, "checksums")
  disk = timed(sync, "disk")
  with (
    tempfile.TemporaryDirectory() as folder,
    mock.patch.object(checkpoints, "write_checksums", checksums),
    mock.patch.object(checkpoints, "sync", disk),
  ):
    for step in range(_ROUNDS.value + 1):
      start = time.perf_counter()
      checkpointer = Checkpointer(folder, 1)
      checkpointer.save(TrainState(jnp.int32(step), params, ()), {})
      checkpointer.close()
      seconds["all"].append(time.perf_counter() - start)
  # A save waits for its files and then for the name of its folder.
  pairs = zip(seconds["disk"][::2], seconds["disk"][1::2], strict=True)
  seconds["disk"] = [sum(pair) for pair in pairs]
  median = {k: statistics.median(v[1:]) for k, v in seconds.items()}
  return {
    "what": "save",
    "megabytes": megabytes,
    "seconds": median["all"],
    "checksum_seconds": median["checksums"],
    "sync_seconds": median["disk"],
    "share": (median["checksums"] + median["disk"]) / median["all"],
  }


def measure_run() -> dict[str, object]:
  """Times steps with real data and with a fixed batch, and a save."""
  config = load_config("shakespeare_slim", _QUICK.value)
  config.data.update(name="text", path=text_path(_TEXT, _QUICK))
  experiment = build.create_experiment(config)
  state = jax.jit(lambda: build.init(experiment))()
  abstract = jax.eval_shape(lambda: state)
  compiled = compile_steps(config, experiment, abstract, 0)
  gradient = compiled.gradients["slim"].step
  data = build.create_split(config, "train", config.train.batch_size)
  fixed = data.batch(0)
  seconds = {"data": [], "fixed": [], "save": []}
  with tempfile.TemporaryDirectory() as folder:
    for turn in range(_ROUNDS.value + 1):
      # Step by step in turns; a run computes while it makes the next batch.
      for step in range(5 * turn, 5 * turn + 5):
        for kind in ("data", "fixed"):
          start = time.perf_counter()
          batch = data.batch(step) if kind == "data" else fixed
          sums, gradients = gradient(state.params, batch, np.int32(step))
          state, norm = compiled.update(state, gradients, sums)
          norm.block_until_ready()
          seconds[kind].append(time.perf_counter() - start)
      start = time.perf_counter()
      checkpointer = Checkpointer(folder, 1)
      checkpointer.save(state._replace(step=jnp.int32(turn)), {})
      checkpointer.close()  # A run would go on meanwhile.
      seconds["save"].append(time.perf_counter() - start)
  median = {k: statistics.median(v[1:]) for k, v in seconds.items()}
  every = config_lib.base().train.checkpoint_every
  return {
    "what": "run",
    "config": "shakespeare_slim",
    "seconds_a_step": median["data"],
    "over_fixed_batch": median["data"] / median["fixed"],
    "seconds_a_save": median["save"],
    "checkpoint_every": every,
    "share_of_saves": median["save"] / (every * median["data"]),
  }


if __name__ == "__main__":
  command_line.run(main)
