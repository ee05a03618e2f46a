"""The training loop: updates, and on the way reports, evaluations, saves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections

from slim.data import Dataset
from slim.runs.best import Best
from slim.runs.checkpoints import Checkpointer
from slim.runs.interruptions import Interruptions
from slim.runs.metrics import MetricsWriter
from slim.runs.profiler import Profiler
from slim.runs.progress import Progress
from slim.runs.stages import stage
from slim.training import build
from slim.training.compiled import CompiledSteps
from slim.types import Params, Sums, TrainState


@dataclasses.dataclass(frozen=True)
class Loop:
  """What trains a run from one step to another.

  Attributes:
    config: All settings.
    data: The training data.
    compiled: The programs of an update.
    evaluate: Sums over the validation split.
    progress: Takes the results of the steps.
    profiler: Traces some of them.
    writer: Of the metrics; it waits for the disk before a checkpoint counts.
    checkpointer: Writes checkpoints.
    record: What each checkpoint says about the run.
    interruptions: Ask for a checkpoint, or for the end.
    best: The best evaluation so far.
  """

  config: ml_collections.ConfigDict
  data: Dataset
  compiled: CompiledSteps
  evaluate: Callable[[Params], Sums]
  progress: Progress
  profiler: Profiler
  writer: MetricsWriter
  checkpointer: Checkpointer
  record: dict[str, Any]
  interruptions: Interruptions
  best: Best

  def run(self, state: TrainState) -> TrainState:
    """Updates to the last step, or until an interruption asks for the end.

    Args:
      state: Its buffers are donated.

    Returns:
      The state after the last update, which has been saved.

    Raises:
      FloatingPointError: If the loss or the gradient is not finite.
      ValueError: If a file cannot be written.
    """
    train = self.config.train
    for step in range(int(state.step), train.num_steps):
      state = self._update(state, step)
      done = step + 1
      is_last = done == train.num_steps
      # Ask for both, as a signal that asks for a save is taken by asking.
      save_wanted = self.interruptions.take_save_wanted()
      ending = self.interruptions.should_end() and not is_last
      evaluating = is_last or done % train.eval_every == 0
      saving = is_last or done % train.checkpoint_every == 0
      saving |= save_wanted or ending
      if evaluating or saving:
        self.progress.flush()  # Raises before a bad state is saved.
      if evaluating:
        is_best = self._evaluate(state, done)
        saving |= is_best and train.keep_best is not None
        if train.patience is not None and self.best.since >= train.patience:
          self.interruptions.reason = f"config.train.patience={train.patience}"
          saving = ending = True
      if saving:
        with self.progress.paused("save"), stage("waiting for the disk"):
          self._save(state)
      if ending:
        break
    return state

  def _evaluate(self, state: TrainState, step: int) -> bool:
    """Evaluates, and tells whether it was the best evaluation so far."""
    with self.progress.paused("evaluation"), stage("evaluating"):
      sums = self.evaluate(state.params)
    return self.best.add(step, self.progress.report_evaluation(step, sums))

  def _update(self, state: TrainState, step: int) -> TrainState:
    """Computes an update; the device may still be at it."""
    gradient = self.compiled.gradients[build.method_at(self.config, step)]
    with self.profiler.step(step + 1):
      batch = self.data.batch(step)
      sums, gradients = gradient.step(state.params, batch, jnp.int32(step))
      state, norm = self.compiled.update(state, gradients, sums)
      del gradients  # Free it before the next one is computed.
      self.progress.add(step + 1, sums, norm, gradient.activation_bytes)
    return state

  def _save(self, state: TrainState) -> None:
    """Starts to save; a resumed run has all records up to its step."""
    self.writer.sync()
    progress = self.progress.to_record()
    keep = [] if self.config.train.keep_best is None else [self.best.step]
    self.checkpointer.save(state, self.record | {"progress": progress}, keep)
