"""The settings of a whole run: `config.train`, `config.profile` and the top."""

import dataclasses

from slim.settings import SettingError, setting

# Metrics that can decide which evaluation is the best; whether more is better.
METRICS = {"eval/loss": False, "eval/accuracy": True}


@dataclasses.dataclass(frozen=True)
class TopSettings:
  """The settings that are in no group."""

  seed: int = setting(
    0,
    "Seed of weights, random features, data and dropout; 0 to 2^32 - 1.",
    minimum=0,
    below=2**32,
  )
  matmul_precision: str = setting(
    "highest",
    "Precision of float32 matrix products on accelerators: float32 (highest), "
    "or what the device offers instead, such as TF32 or bfloat16 (high, "
    "default).",
    choices=("default", "high", "highest"),
  )
  mesh: str | None = setting(
    None,
    "Devices, as in data=2,fsdp=2,sequence=2: data shares the sequences of a "
    "batch, sequence the tokens of each, and fsdp sequences and parameters. "
    "None: all devices share the sequences.",
  )


@dataclasses.dataclass(frozen=True)
class TrainSettings:
  """The settings `config.train`."""

  num_steps: int = setting(1000, "Updates of the weights.")
  batch_size: int = setting(16, "B, sequences per update.")
  accumulation_steps: int = setting(
    1,
    "Parts into which a batch is split, one after the other in the memory of "
    "one part; divides batch_size.",
  )
  log_every: int = setting(50, "Steps between reports.")
  eval_every: int = setting(
    500, "Steps between evaluations; the last step is always evaluated."
  )
  eval_batches: int | None = setting(
    None,
    "Batches per evaluation while training. None: the whole validation split.",
  )
  checkpoint_every: int = setting(
    500, "Steps between checkpoints; the last step is always saved."
  )
  keep_checkpoints: int = setting(
    3, "How many of the newest checkpoints to keep."
  )
  keep_best: str | None = setting(
    None,
    "Keep the checkpoint of the best evaluation, too: the metric that decides. "
    "None: only the newest ones.",
    choices=tuple(METRICS),
  )
  patience: int | None = setting(
    None,
    "End after so many evaluations in a row without a better one, by keep_best "
    "or else eval/loss. None: train all steps.",
  )
  max_skipped: int = setting(
    0,
    "Updates that may be skipped in a run because the loss or the gradient is "
    "not finite, or the gradient longer than skip_norm. At the next one it "
    "stops.",
    minimum=0,
  )
  skip_norm: float | None = setting(
    None,
    "Norm of the mean gradient above which an update is skipped; see "
    "max_skipped. None: no limit.",
  )
  max_minutes: float | None = setting(
    None,
    "Minutes that a run may take. It saves and ends before, except while it is "
    "evaluating; the same command continues it. None: no limit.",
  )
  init_from: str | None = setting(
    None,
    "Start from these weights: a file of `python -m slim.export`, or the "
    "folder of another run or of one of its checkpoints. None: new weights. "
    "The settings of the model must agree, except dropout, dtype and "
    "stack_layers.",
    is_path=True,
  )
  tensorboard: bool = setting(
    False, "Write the metrics as TensorBoard event files, too."
  )

  def check(self) -> None:
    """Raises SettingError if settings do not fit each other."""
    if self.batch_size % self.accumulation_steps:
      raise SettingError(
        "accumulation_steps",
        "must be a divisor of config.train.batch_size, which is "
        f"{self.batch_size}, got {self.accumulation_steps}",
      )
    if self.skip_norm is not None and not self.max_skipped:
      raise SettingError(
        "max_skipped",
        "must be above 0 with config.train.skip_norm, as the run would stop at "
        "the first such update, got 0",
      )


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
  """The settings `config.profile`."""

  steps: tuple[int, ...] = setting(
    (),
    "First and last step of a trace by jax.profiler, as in 10,20. The first "
    "update is step 1, as in the log. (): no trace.",
  )
