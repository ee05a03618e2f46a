"""Runs to compare, and two processes of four devices as users start them."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

from slim.runs.metrics import read_records

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from slim import config


def get_config():
  c = config.base()
  c.mesh = "data=2,fsdp=2,sequence=2"
  c.model.width, c.model.num_layers, c.model.num_heads = 16, 1, 2
  c.model.dropout = 0.1
  c.data.sequence_length, c.data.vocab_size = 22, 8
  c.gradient.chunk_size = 4
  c.train.batch_size, c.train.num_steps = 4, 6
  c.train.log_every, c.train.eval_every, c.train.eval_batches = 1, 3, 1
  c.train.checkpoint_every = 2
  return c
"""


def losses_of(folder):
  """The losses of a run by step and name."""
  return {
    (record["step"], name): record[name]
    for record in read_records(str(folder / "metrics.jsonl"))
    for name in ("train/loss", "eval/loss")
    if name in record
  }


def assert_same_losses(folder, right):
  """Asserts that two runs have the same losses, to rounding."""
  found, expected = losses_of(folder), losses_of(right)
  assert found.keys() == expected.keys()
  np.testing.assert_allclose(
    list(found.values()), list(expected.values()), rtol=1e-6
  )


def write_config(folder):
  """Writes the config of a fast run, and returns its path."""
  path = folder / "fast.py"
  path.write_text(CONFIG)
  return path


class Processes:
  """Two processes that train together.

  Attributes:
    errors: What each has written to stderr, after `wait`.
    seconds: How long after the first one each has ended.
  """

  def __init__(self, config, workdir, *arguments, patches=("", ""), of_each=()):
    """Starts them.

    Args:
      config: The path of the config.
      workdir: The folder of the run.
      *arguments: For both.
      patches: Python code that each runs first.
      of_each: A list of arguments for each.
    """
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "4",
      "PYTHONPATH": str(ROOT),
      # Not that of the user.
      "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(workdir).parent / "cache"),
    }
    self._started = [
      subprocess.Popen(
        [
          sys.executable,
          "-c",
          f"import sys\nfrom slim import train\n{patch}\ntrain.main(sys.argv)",
          f"--config={config}",
          f"--workdir={workdir}",
          f"--processes=127.0.0.1:{port},2,{i}",
          *arguments,
          *(of_each[i] if of_each else ()),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for i, patch in enumerate(patches)
    ]

  def send(self, index, number):
    """Sends a signal to one of them."""
    self._started[index].send_signal(number)

  def read_line(self, index, text):
    """Reads the log of one of them until a line has a text."""
    for line in self._started[index].stderr:
      if text in line:
        return line
    raise AssertionError(f"process {index} has ended without {text!r}")

  def wait(self):
    """Waits for both, and returns their exit codes."""
    ends, started = [None, None], time.monotonic()
    while None in ends:
      if time.monotonic() - started > 150:
        for process in self._started:
          process.kill()
      for i, process in enumerate(self._started):
        if ends[i] is None and process.poll() is not None:
          ends[i] = time.monotonic()
      time.sleep(0.02)
    self.seconds = [end - min(ends) for end in ends]
    self.errors = [process.communicate()[1] for process in self._started]
    return [process.returncode for process in self._started]
