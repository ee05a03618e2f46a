"""Faults in the commands."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "train.py",
    'if metadata["data_fingerprint"] != train_data.fingerprint:',
    "if False:",
    "train",
  ),
  Mutation(
    "train.py",
    "last = done == train.num_steps",
    "last = False",
    "train",
  ),
  Mutation(
    "export.py",
    "save_weights(output, state.params, config, int(state.step))",
    "save_weights(output, state.params, config, 0)",
    "test_export.py",
  ),
  Mutation(
    "command_line.py",
    "if rest and not known_only:",
    "if False:",
    "test_command_line.py",
  ),
]
