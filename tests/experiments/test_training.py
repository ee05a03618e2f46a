"""The experiments that train: their runs, and what they conclude."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.training.gradients import make_value_and_grad
from slim.training.losses import cross_entropy_sums
from tests.helpers import assert_gradients_close
from tests.models.small import batch_of, create, params_of


@pytest.fixture
def learning_curves(beside, monkeypatch):
  """Returns the script with parsed flags."""
  import learning_curves

  learning_curves.flags.FLAGS(["learning_curves", "--steps=3000"])
  return learning_curves


def test_runs_of_figure_4_differ_in_the_gradient_alone(learning_curves):
  """Fails if a curve of Figure 4 is drawn under the name of another."""
  configs = learning_curves.make_configs("ptb")
  full = configs["full"]
  assert {
    run: (x.gradient.method, x.gradient.chunk_size, x.seed)
    for run, x in configs.items()
  } == {
    "full": ("full", 512, 42),
    "full-seed": ("full", 512, 43),
    "slim-512": ("slim", 512, 42),
    "slim-256": ("slim", 256, 42),
    "full_then_slim-512": ("full_then_slim", 512, 42),
    "full_then_slim-256": ("full_then_slim", 256, 42),
  }
  for config in configs.values():
    assert config.train.num_steps == 3000
    for group in ("model", "data", "optimizer", "train"):
      assert config[group] == full[group]


def test_records_are_appended_to_whole_lines(beside, tmp_path):
  """Fails if a record is appended to a line that a crash cut off."""
  import training_runs

  path = tmp_path / "x.jsonl"
  assert training_runs.complete_records(path) == []
  path.write_text('{"step": 0}\n{"step": 1}\n{"st')
  found = training_runs.complete_records(path)
  assert found == [{"step": 0}, {"step": 1}]
  assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


def test_runs_are_compared_at_the_last_common_step(
  learning_curves, tmp_path, monkeypatch
):
  """Fails if a run that came further is compared with one that did not."""
  metrics = {
    "full": [(100, 3.0, 3.5), (200, 2.0, 2.5), (300, 1.0, 1.5)],
    "full-seed": [(100, 3.1, 3.75), (200, 2.1, 2.75)],
    "slim-512": [(100, 3.0, 3.5), (200, 2.0, 2.625)],
    "slim-256": [],  # It has just started.
  }
  folders = {}
  for run, records in metrics.items():
    folders[run] = tmp_path / run
    folders[run].mkdir()
    (folders[run] / "config.json").write_text(
      '{"data": "PTB", "processes": '
      '[{"git_commit": "old"}, {"git_commit": null}, {"git_commit": "abc"}]}'
    )
    lines = []
    for step, train, evaluated in records:
      lines.append({"step": step, "train/bpc": train})
      lines.append({"step": step, "eval/bpc": evaluated})
    (folders[run] / "metrics.jsonl").write_text(
      "".join(json.dumps(line) + "\n" for line in lines)
    )
  saved = {}
  monkeypatch.setattr(
    learning_curves,
    "save",
    lambda name, rows, **notes: saved.update(notes, name=name, rows=rows),
  )
  learning_curves.record("ptb", folders)
  assert saved["name"] == "learning_curves_ptb_part"
  assert saved["spread"] == 0.25
  assert saved["steps_of_paper"] == 30_000
  assert [
    (x["run"], x["steps"], x["compared_step"], x["distance_to_full"])
    for x in saved["rows"]
  ] == [
    ("full", 300, 200, 0.0),
    ("full-seed", 200, 200, 0.25),
    ("slim-512", 200, 200, 0.125),
  ]
  assert [x["first_distance_to_full"] for x in saved["rows"]] == [
    0,
    pytest.approx(0.1),
    0,
  ]
  assert [x["training_bpc"] for x in saved["rows"]] == [2.5, 2.6, 2.5]
  assert {x["commit"] for x in saved["rows"]} == {"old unknown abc"}
  assert saved["data"] == "PTB"
  assert saved["curves"]["slim-512"] == [(100, 3.0), (200, 2.0)]
  whole = dict.fromkeys(learning_curves.make_configs("ptb"), folders["full"])
  learning_curves.record("ptb", whole)
  assert saved["name"] == "learning_curves_ptb"


def test_runs_are_shown_without_training(learning_curves, tmp_path):
  """Fails if --steps=0 loses the runs that another --steps has trained."""
  names = "full", *(f"full_then_slim-512-{n}" for n in ("900", "3000", "x"))
  for name in names:
    (tmp_path / f"ptb-{name}").mkdir()
    steps = {"full_then_slim-512-900": 900, "full_then_slim-512-3000": 500}
    line = {"step": steps.get(name, 0), "eval/loss": 1.0}
    if not name.endswith("-x"):  # It has just begun.
      (tmp_path / f"ptb-{name}" / "metrics.jsonl").write_text(
        json.dumps(line) + "\n"
      )
  learning_curves.flags.FLAGS.steps = 0
  configs = learning_curves.make_configs("ptb")
  found = learning_curves.train_task("ptb", configs, tmp_path)
  assert {run: folder.name for run, folder in found.items()} == {
    "full": "ptb-full",
    "full_then_slim-512": "ptb-full_then_slim-512-900",
  }


def test_weights_are_told_apart(beside):
  """Fails if a retrained run continues the table of the old weights."""
  import training_runs

  params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.zeros(3)}
  found = training_runs.checksum(params)
  assert found == training_runs.checksum(jax.tree.map(np.asarray, params))
  assert found != training_runs.checksum(params | {"b": jnp.ones(3)})


def test_a_model_adapts_to_the_first_half(x64, beside):
  """Fails if the step sees the half on which it is scored, or moves wrongly."""
  import finetune_steps

  model = create(dtype="float64")
  params, batch = params_of(model), batch_of(12)
  batch = jax.tree.map(lambda x: x[:1], batch)
  batch = batch._replace(weights=jnp.ones((1, 12)))
  score = finetune_steps.make_score(model, chunk_size=5)

  def mean_nll(params, half):
    logits, _ = model.apply(params, batch.inputs, None)
    logits, *rest = (
      jax.lax.dynamic_slice_in_dim(x, 6 * half, 6, 1)
      for x in (logits, batch.targets, batch.weights)
    )
    return cross_entropy_sums(logits, *rest).nll / 6

  rates = jnp.array([0.01, 0.02])

  def right(params, *_):
    gradient = jax.grad(mean_nll)(params, 0)
    moved = [
      jax.tree.map(lambda x, x_ct, r=r: x - r * x_ct, params, gradient)
      for r in rates
    ]
    return jnp.stack([mean_nll(x, 1) for x in moved]) / np.log(2)

  functions = [right] + [
    finetune_steps.make_adaptation(make_value_and_grad(model, **how), score)
    for how in ({"method": "full"}, {"method": "slim", "chunk_size": 4})
  ]
  right, *found = jax.jit(lambda *args: [f(*args) for f in functions])(
    params, batch, rates
  )
  assert_gradients_close(found, [right] * 2, 1e-12)


def test_learning_rates_are_compared_with_no_step(beside):
  """Fails if a rate that helps is said to hurt."""
  import finetune_rates

  before = np.array([[2.0], [4.0], [3.0]])
  change = np.array([[1, 0, -1, -0.5, -0.25]] * 2 + [[4, 0, -1, 0.5, -0.25]])
  rows = finetune_rates.summarize(np.hstack([before, before + change]))
  assert [x["learning_rate"] for x in rows] == [0.03, 0.01, 0.003, 0.001, 3e-4]
  assert {x["bpc_before"] for x in rows} == {3.0}
  assert [x["bpc_after"] for x in rows] == pytest.approx(
    [5, 3, 2, 3 - 0.5 / 3, 2.75]
  )
  assert [x["median_change"] for x in rows] == [1, 0, -1, -0.5, -0.25]
  assert [x["largest_change"] for x in rows] == [4, 0, -1, 0.5, -0.25]
  assert [x["share_better"] for x in rows] == pytest.approx([0, 0, 1, 2 / 3, 1])
