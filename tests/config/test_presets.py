"""Presets: what tasks and models leave alone, and the smoke variant."""

import pytest

from slim.config import base, flatten, presets, validate
from slim.data import create_dataset

TASKS = (
  presets.copying,
  presets.ptb,
  presets.enwik8,
  presets.shakespeare,
  presets.text,
)
MODELS = (presets.performer, presets.transformer, presets.reformer)


def changed(preset):
  """Returns the names of the settings that a preset changes."""
  before, config = flatten(base()), base()
  preset(config)
  return {
    name for name, value in flatten(config).items() if value != before[name]
  }


@pytest.mark.parametrize("task", TASKS, ids=lambda x: x.__name__)
@pytest.mark.parametrize("model", MODELS, ids=lambda x: x.__name__)
def test_tasks_and_models_do_not_overwrite_each_other(task, model):
  """Fails if the order of two presets in a config file matters."""
  assert not changed(task) & changed(model)
  one, other = base(), base()
  task(one)
  model(one)
  model(other)
  task(other)
  assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize("model", MODELS, ids=lambda x: x.__name__)
def test_the_smoke_variant_is_small(model):
  """Fails if a smoke test takes as long as training."""
  config = base()
  presets.enwik8(config)
  model(config)
  assert presets.variant(config, "smoke") is config
  validate(config)
  assert (config.model.width, config.model.mlp_width) == (64, 256)
  assert config.model.num_layers == (2 if model is presets.reformer else 1)
  assert (config.data.sequence_length, config.train.num_steps) == (64, 4)
  # It needs no download.
  for split in ("train", "validation", "test"):
    dataset = create_dataset(
      split=split, batch_size=2, seed=0, **config.data.to_dict()
    )
    assert dataset.batch(0).inputs.shape == (2, 64)


def test_the_smoke_variant_keeps_smaller_values():
  """Fails if `:smoke` makes a config larger, or its settings do not fit."""
  config = base()
  config.model.update(width=48, num_heads=3, heads_at_once=3, mlp_width=16)
  config.model.update(num_layers=1, attention="local,lsh", positions="rotary")
  config.gradient.update(method="full", chunk_size=None, memory_budget="1GiB")
  config.train.update(batch_size=8, accumulation_steps=4, init_from="a")
  config.train.update(num_steps=3, log_every=1)
  config.profile.steps = (2, 30)
  presets.smoke(config)
  validate(config)
  model, train = config.model, config.train
  assert (model.width, model.num_heads, model.mlp_width) == (48, 3, 16)
  assert (model.num_layers, train.num_steps, train.log_every) == (1, 3, 1)
  assert config.gradient.chunk_size is train.init_from is None
  assert config.profile.steps == ()


def test_the_width_of_the_mlp_follows_in_the_smoke_variant():
  """Fails if --config.model.width changes less in the smoke variant."""
  config = presets.variant(base(), "smoke")
  config.model.width = 32
  assert config.model.mlp_width == 128


def test_the_smoke_variant_trains_on_any_data_and_devices():
  """Fails if settings of the file do not fit what `:smoke` replaces."""
  config = base()
  presets.text(config)
  config.model.mlp_width = None
  config.data.update(path="a", document_lengths="lengths.npy")
  presets.smoke(config)
  assert config.data.document_lengths is None
  assert (config.model.mlp_width, config.mesh) == (None, "data=1")
  config.data.pack_documents = 50_256
  config.mesh = "fsdp=2"
  presets.smoke(config)
  assert (config.data.pack_documents, config.mesh) == (10, "fsdp=2")


@pytest.mark.parametrize("name", ["smok", "Smoke", "full"])
def test_other_variants_are_refused(name):
  """Fails if a misspelt `:smoke` trains for days."""
  with pytest.raises(ValueError, match=f"'smoke' or none, got '{name}'"):
    presets.variant(base(), name)
  assert presets.variant(base(), "").to_dict() == base().to_dict()
