"""Faults in settings and presets."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "settings.py",
    "elif self.minimum is None and not 0 < value < math.inf:",
    "elif self.minimum is None and not 0 < value:",
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
    "if model.mlp_width > 4 * model.width:",
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
