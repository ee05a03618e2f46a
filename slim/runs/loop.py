"""The training loop: updates, and on the way reports, evaluations, saves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_collections
import numpy as np

from slim.data import Dataset
from slim.runs.best import Best
from slim.runs.checkpoints import Checkpointer
from slim.runs.interruptions import Interruptions
from slim.runs.metrics import MetricsWriter
from slim.runs.profiler import Profiler
from slim.runs.progress import Progress
from slim.runs.stages import stage
from slim.scale.processes import Ending
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
    ending: Lets all processes end after the same step.
    evaluates_first: Whether the first step is still to be evaluated, because a
      signal has ended the run there.
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
  ending: Ending
  evaluates_first: bool

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
    start = int(state.step)
    self.interruptions.start_steps()
    if self.evaluates_first and self.best.last_step != start:
      self._evaluate(state, start)
      if self._should_end(start):
        return state
    for step in range(start, train.num_steps):
      state = self._update(state, step)
      self.checkpointer.check()
      done = step + 1
      is_last = done == train.num_steps
      evaluating = is_last or done % train.eval_every == 0
      # Ask, in any case: a wish for a checkpoint is taken by asking.
      saving = self.interruptions.take_save_wanted()
      saving |= is_last or done % train.checkpoint_every == 0
      if evaluating:  # Raises before a bad state is saved; ends the step.
        self.progress.flush()
      ending = self._should_end(done) and not is_last
      if evaluating and not ending:  # An evaluation may take minutes.
        saving |= self._evaluate(state, done) and train.keep_best is not None
        ending = self._should_end(done) and not is_last
        evaluating = False
      if saving or ending:
        self.progress.flush()
        self._save(state, evaluates_first=evaluating)
      if ending:
        break
    return state

  def _should_end(self, step: int) -> bool:
    """Tells whether to end: by a signal, the time or the evaluations."""
    patience = self.config.train.patience
    if patience is not None and self.best.since >= patience:
      self.interruptions.reason = f"config.train.patience={patience}"
      return True  # All processes have the same evaluations.
    wish = self.interruptions.should_end(self.checkpointer.longest_seconds)
    ending = self.ending.agree(wish, step)
    if ending and not wish:
      self.interruptions.reason = "a signal to one of the processes"
    return ending

  def _evaluate(self, state: TrainState, step: int) -> bool:
    """Evaluates, and tells whether it was the best evaluation so far."""
    with self.progress.paused("evaluation"), stage("evaluating"):
      sums = self.evaluate(state.params)
    self.interruptions.start_steps()  # It does not count as a step.
    return self.best.add(step, self.progress.report_evaluation(step, sums))

  def _update(self, state: TrainState, step: int) -> TrainState:
    """Computes an update; the device may still be at it."""
    gradient = self.compiled.gradients[build.method_at(self.config, step)]
    with self.profiler.step(step + 1):
      batch = self.data.batch(step, self.compiled.rows)
      sums, gradients = gradient.step(state.params, batch, np.int32(step))
      state, norm = self.compiled.update(state, gradients, sums)
      del gradients  # Free it before the next one is computed.
      self.progress.add(step + 1, sums, norm, gradient.activation_bytes)
    return state

  def _save(self, state: TrainState, evaluates_first: bool) -> None:
    """Starts to save; a resumed run has all records up to its step."""
    with self.progress.paused("save"), stage("waiting for the disk"):
      self.writer.sync()
      progress = self.progress.to_record()
      progress["evaluates_first"] = evaluates_first
      keep = [] if self.config.train.keep_best is None else [self.best.step]
      record = self.record | {"progress": progress}
      self.checkpointer.save(state, record, keep)
