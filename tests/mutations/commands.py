"""Faults in the commands."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "train.py",
    "check_state_fits(abstract_state)",
    "pass",
    "plan/test_fits.py",
  ),
  Mutation(
    "train.py",
    "check_steps_fit(abstract_state, batch, compiled)",
    "pass",
    "plan/test_fits.py",
  ),
  Mutation(
    "evaluate.py",
    "print(describe(record), flush=True)",
    "pass",
    "test_evaluate.py",
  ),
  Mutation(
    "export.py",
    "done = int(trained.state.step)",
    "done = 0",
    "test_export.py",
  ),
  Mutation(
    "command_line.py",
    "if rest and not known_only:",
    "if False:",
    "test_command_line.py",
  ),
]
