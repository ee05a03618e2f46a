"""Faults in what a run keeps on disk and prints."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "runs/checkpoints.py",
    "steps = sorted(manager.all_steps(), reverse=True)",
    "steps = sorted(manager.all_steps())",
    "runs/test_checkpoints.py train",
  ),
  Mutation(
    "runs/weights.py",
    'must_agree.append("seed")',
    "pass",
    "runs/weights",
  ),
  Mutation(
    "runs/workdir.py",
    "fcntl.LOCK_EX | fcntl.LOCK_NB",
    "fcntl.LOCK_SH | fcntl.LOCK_NB",
    "runs/test_workdir.py train",
  ),
  Mutation(
    "runs/progress.py",
    "      self.report_sums = Sums(0.0, 0.0, 0.0)",
    "      pass",
    "runs/test_progress.py train",
  ),
]
