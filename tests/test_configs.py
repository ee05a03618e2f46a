"""The experiments of configs/: what they hold, and that they run."""

import importlib.util
import json
import pathlib

import jax
import pytest
from absl import flags
from ml_collections import config_flags

from slim import command_line, experiment, train

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
# In their smoke form programs of equal sizes as those of PTB.
LIKE_PTB = [
  f"{text}_{model}"
  for text in ("enwik8", "shakespeare")
  for model in ("transformer", "reformer")
]


def load(name):
  """Returns the settings of a file of `configs/`."""
  path = ROOT / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


# Four have equal programs.
@pytest.mark.usefixtures("compilation_cache")
# The loader of ml_collections is deprecated by Python, not by us.
@pytest.mark.filterwarnings(
  "ignore:the load_module\\(\\) method is deprecated:DeprecationWarning"
)
@pytest.mark.parametrize(
  "path",
  [
    pytest.param(
      path,
      id=path.stem,
      marks=[pytest.mark.full] if path.stem in LIKE_PTB else [],
    )
    for path in FILES
  ],
)
def test_the_smoke_form_trains(path, tmp_path):
  """Without it a published experiment could fail after a day, or at once."""
  argv = ["train", f"--config={path}:smoke", "--config.train.num_steps=2"]
  flag_values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    "config", None, flag_values=flag_values, sys_argv=argv
  )
  command_line.parse_flags(argv, flag_values)
  state = train.train_and_evaluate(flag_values.config, str(tmp_path))
  assert state.step == 2
  assert (tmp_path / "checkpoints" / "2").is_dir()
  record = json.loads((tmp_path / "config.json").read_text())
  assert record["config"]["data"]["name"] in record["data"]


@pytest.mark.parametrize(
  ("name", "parameters", "settings"),
  [
    (
      "copying_slim",
      822_528,
      "512 tokens, copying, C=128, pre, 0.01 step, 15000 steps",
    ),
    (
      "ptb_slim",
      8_866_048,
      "1024 tokens, ptb, C=512, output, 0.0001 constant, 30000 steps",
    ),
    (
      "enwik8_slim",
      35_033_344,
      "4096 tokens, enwik8, C=2048, output, 0.0002 constant, 100000 steps",
    ),
  ],
)
def test_settings_are_the_papers(name, parameters, settings):
  """Without it a run of ours would not compare with the paper's."""
  config = load(name)
  state = jax.eval_shape(
    lambda: experiment.init(experiment.create_experiment(config))
  )
  assert sum(x.size for x in jax.tree.leaves(state.params)) == parameters
  optimizer = config.optimizer
  assert settings == (
    f"{config.data.sequence_length} tokens, {config.data.name}, "
    f"C={config.gradient.chunk_size}, {config.model.norm}, "
    f"{optimizer.learning_rate} {optimizer.schedule}, "
    f"{config.train.num_steps} steps"
  )
  assert config.model.width // config.model.num_heads == 64
  assert (config.seed, config.train.batch_size) == (42, 1)
  assert config.data.order == "consecutive" or name == "copying_slim"
  assert config.model.dropout == optimizer.weight_decay == 0
