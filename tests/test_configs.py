"""The experiments of configs/: what they hold, and that they run."""

import json
import pathlib

import jax
import pytest

from slim import config as config_lib
from slim import train
from slim.config.config_file import load_config
from slim.training import build, steps
from tests.commands import run_command

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
# One of each model: trained in `make test`, by the command.
TRAINED = ("text_slim", "duplication")
# Of the same layers as another, at other sizes.
ALIKE = ("enwik8_reformer", "ptb_reformer", "text_hybrid")


def load(name, argument=""):
  """Returns the settings of a file of `configs/`."""
  return load_config(f"{ROOT}/configs/{name}.py{argument}")


_params_of_model = {}


def first_state(config):
  """The shapes of the first state; parameters of equal models traced once."""
  experiment = build.create_experiment(config)
  sizes = config.data.vocab_size, config.data.sequence_length
  key = (*config.model.items(), sizes)
  if key not in _params_of_model:
    _params_of_model[key] = jax.eval_shape(
      experiment.model.init, experiment.init_key
    )
  return jax.eval_shape(
    lambda params: steps.init_train_state(params, experiment.optimizer),
    _params_of_model[key],
  )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_configs_refuse_other_variants(path):
  """Fails if a misspelt `:smoke` trains for days."""
  with pytest.raises(ValueError, match="'smoke' or none, got 'smok'"):
    load(path.stem, ":smok")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_describes_an_experiment(path):
  """Fails if a published experiment cannot start, or has no data."""
  for argument in ("", ":smoke"):
    config = load(path.stem, argument)
    config_lib.validate(config)
    assert first_state(config).params
  for split, batch_size in (
    ("train", config.train.batch_size),
    ("validation", config.train.batch_size),
    ("test", 1),
  ):
    dataset = build.create_split(config, split, batch_size)
    assert config.data.name in dataset.name
    assert split in dataset.description
    batch = dataset.batch(0)
    assert batch.inputs.shape == (batch_size, config.data.sequence_length)
    assert batch.inputs.max() < config.data.vocab_size


def _tier(name):
  """The marks of a config that `make test` does not train."""
  return [pytest.mark.full if name in ALIKE else pytest.mark.slow]


# Many have equal programs.
@pytest.mark.usefixtures("compilation_cache")
@pytest.mark.parametrize(
  "path",
  [
    pytest.param(
      path,
      id=path.stem,
      marks=[] if path.stem in TRAINED else _tier(path.stem),
    )
    for path in FILES
  ],
)
def test_the_smoke_variant_trains(path, tmp_path):
  """Fails if a published experiment breaks at once, or at its first save."""
  done = run_command(
    train.main,
    f"--config={path}:smoke",
    "--config.train.num_steps=2",
    "--config.train.eval_batches=1",
    f"--workdir={tmp_path}",
  )
  assert done.code == 0, done.errors
  assert not done.output
  assert "finished: checkpoint" in done.errors
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
  """Fails if our runs are not comparable with those of the paper."""
  config = load(name)
  params = first_state(config).params
  assert sum(x.size for x in jax.tree.leaves(params)) == parameters
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
