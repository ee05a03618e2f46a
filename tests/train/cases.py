"""The config of a fast run, the run itself, and what tests compare."""

import logging
import os
import pathlib
import shutil
from typing import NamedTuple

import chex
import ml_collections

from slim import train
from slim.runs import metrics
from slim.types import TrainState
from tests.helpers import SMALL, make_config


def make(**settings):
  """Returns the config of a fast run; dots in names are written as __."""
  defaults = SMALL | dict(
    gradient__method="full",  # The fastest to compile.
    gradient__chunk_size=5,
    train__num_steps=6,
    train__log_every=2,
    train__eval_every=4,
    train__eval_batches=1,
    train__checkpoint_every=3,
  )
  return make_config(**(defaults | settings)).lock()


class Run(NamedTuple):
  """A finished run; tests read it, or copy its folder."""

  settings: ml_collections.ConfigDict
  folder: pathlib.Path
  state: TrainState
  log: list[logging.LogRecord]

  def copy(self, folder):
    """Copies the folder of the run, and returns where it is."""
    return shutil.copytree(self.folder, folder)


def run(settings, folder):
  """Trains, and keeps the log."""
  records = []
  handler = logging.Handler()
  handler.emit = records.append
  logger = logging.getLogger("slim")
  level = logger.level
  logger.setLevel(logging.INFO)
  logger.addHandler(handler)
  state = train.train_and_evaluate(settings, str(folder))
  logger.removeHandler(handler)
  logger.setLevel(level)
  return Run(settings, folder, state, records)


def read(folder):
  """Reads the records of a run, without times."""
  records = metrics.read_records(os.path.join(folder, "metrics.jsonl"))
  return [
    {k: v for k, v in record.items() if not k.startswith("time/")}
    for record in records
  ]


def assert_same(a, b):
  """Asserts that two states are equal to the last bit."""
  chex.assert_trees_all_equal(a, b)
