"""Faults in settings and presets."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "settings.py",
    "elif not abs(value) < math.inf:  # Also NaN.",
    "elif value == math.inf:",
    "config/test_config.py test_settings.py",
  ),
  Mutation(
    "config/presets.py",
    "value is not None and value > largest",
    "value is not None",
    "config/test_presets.py",
  ),
  Mutation(
    "config/presets.py",
    "if model.mlp_width is not None and model.mlp_width > 4 * model.width:",
    "if True:",
    "config/test_presets.py",
  ),
  Mutation(
    "config/presets.py",
    "  elif name:",
    "  elif not name:",
    "config/test_presets.py",
  ),
]
