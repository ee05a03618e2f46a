"""Runs that are refused, or stopped by a bad loss or other data."""

import json
import logging
import pathlib
import sys

import jax
import numpy as np
import pytest

from slim import train
from slim.training import steps
from tests.train.cases import make, read, run

# Most runs differ only in their data.
pytestmark = pytest.mark.usefixtures("compilation_cache")


@pytest.fixture(scope="module")
def text(tmp_path_factory, compilation_cache):
  """A run on a file that is called enwik8 but is not enwik8."""
  folder = tmp_path_factory.mktemp("text")
  (folder / "enwik8").write_bytes(bytes(range(256)) * 8)
  settings = make(
    data__name="enwik8",
    data__path=str(folder / "enwik8"),
    data__vocab_size=256,
    train__num_steps=1,
  )
  return run(settings, folder / "run")


def test_the_log_and_the_record_say_what_the_data_is(text):
  """Fails if a part of enwik8 can be taken for the benchmark."""
  record = json.loads((text.folder / "config.json").read_text())
  assert record["data"].startswith(
    "a file of 2,048 bytes instead of enwik8, train: 1843 of 2048 bytes, "
  )
  [logged] = [x for x in text.log if x.getMessage().startswith("data: ")]
  assert logged.getMessage() == f"data: {record['data']}"
  assert logged.levelno == logging.WARNING


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
  """Fails if bad checkpoints replace the last good one."""
  original = steps.make_update_step

  def break_weights(optimizer, skip_above):
    update_step = original(optimizer, skip_above)

    def update(state, gradients, sums):
      scale = jax.numpy.where(state.step == 3, jax.numpy.nan, 1.0)
      return update_step(
        state, jax.tree.map(lambda x: x * scale, gradients), sums
      )

    return update

  monkeypatch.setattr(steps, "make_update_step", break_weights)
  with pytest.raises(FloatingPointError, match="of step 4 .*learning_rate"):
    train.train_and_evaluate(make(train__checkpoint_every=1), str(tmp_path))
  saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert max(map(int, saved)) == 3
  # Skipped, it ends, and the record says so.
  settings = make(train__max_skipped=1, train__log_every=3)
  state = train.train_and_evaluate(settings, str(tmp_path / "skips"))
  assert jax.numpy.isfinite(jax.tree.leaves(state.params)[0]).all()
  reports = [r for r in read(tmp_path / "skips") if "train/loss" in r]
  assert [r["train/skipped"] for r in reports] == [0, 1]


def test_other_data_is_refused(tmp_path, text):
  """Fails if a run continues with a text that has changed."""
  folder = text.copy(tmp_path / "run")
  moved = tmp_path / "moved"
  moved.write_bytes(pathlib.Path(text.settings.data.path).read_bytes())
  settings = text.settings.copy_and_resolve_references()
  settings.data.path = str(moved)
  train.train_and_evaluate(settings, str(folder))  # Same bytes, elsewhere.
  good = moved.read_bytes()
  for place, split in ((0, "train"), (-1, "test")):
    bad = bytearray(good)
    bad[place] ^= 1
    moved.write_bytes(bad)
    message = f"config.data.path: the {split} split of .*moved is no longer"
    with pytest.raises(ValueError, match=message):
      train.train_and_evaluate(settings, str(folder))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(gradient__chunk_size=-1), "config.gradient.chunk_size must be > 0"),
    (dict(model__num_heads=3), "config.model.width must be a multiple of n"),
    (dict(model__feature_map="cube"), "config.model.feature_map must be one"),
    (dict(data__sequence_length=15), "config.data.sequence_length must be ev"),
    (dict(data__name="x"), "config.data.name must be one of ('copying'"),
    (dict(data__name="text", data__vocab_size=256), "config.data.path: 'text"),
    (dict(profile__steps=(5, 7)), "config.profile.steps must be FIRST,LAST"),
    (dict(train__init_from="x"), "config.train.init_from: x must be a safete"),
  ],
)
def test_a_refused_run_writes_nothing(tmp_path, settings, message):
  """Fails if the corrected command finds another config there."""
  with pytest.raises(ValueError) as error:
    train.train_and_evaluate(make(**settings), str(tmp_path / "run"))
  assert str(error.value).startswith(message)
  assert not list(tmp_path.iterdir())


def test_a_tokenizer_is_read_before_training(tmp_path):
  """Fails if a wrong path is noticed when a trained model is to write."""
  np.save(tmp_path / "tokens.npy", np.zeros(400, np.uint8))
  settings = make(
    data__name="tokens",
    data__path=str(tmp_path / "tokens.npy"),
    data__tokenizer="no.json",
  )
  message = "^config.data.tokenizer: cannot read 'no.json'"
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(settings, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()


def test_a_missing_package_writes_nothing(tmp_path, monkeypatch):
  """Fails if the corrected command finds a run half begun."""
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(ValueError, match="^config.train.tensorboard needs the"):
    train.train_and_evaluate(make(train__tensorboard=True), str(tmp_path / "x"))
  assert not list(tmp_path.iterdir())
