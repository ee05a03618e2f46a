"""The scripts of experiments/: what a test can check in seconds."""

import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from slim.kernels import softmax_attention
from tests.helpers import assert_gradients_close
from tests.models.small import batch_of, create, params_of

FOLDER = pathlib.Path(__file__).parents[1] / "experiments"
# The other files are modules that scripts share.
SCRIPTS = sorted(
  path
  for path in FOLDER.glob("*.py")
  if "command_line.run(main)" in path.read_text(encoding="utf-8")
)


@pytest.fixture
def beside(monkeypatch):
  """Imports as a script in experiments/ does; removes its flags and modules."""
  monkeypatch.syspath_prepend(FOLDER)
  names = set(flags.FLAGS)
  yield
  for name in set(flags.FLAGS) - names:
    delattr(flags.FLAGS, name)
  # Libraries stay, as importing them again takes longer than most tests.
  for path in FOLDER.glob("*.py"):
    sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_imported(beside, path):
  """Fails if a script uses a name that slim lacks, or has no small run."""
  before = set(flags.FLAGS)
  assert callable(importlib.import_module(path.stem).main)
  small = "mode" if path.stem == "reproduce" else "quick"
  assert small in set(flags.FLAGS) - before


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_knows_its_flags(path):
  """Fails if a script cannot be started from a shell."""
  run = subprocess.run(
    [sys.executable, path, "--helpshort"], capture_output=True, text=True
  )
  assert "flags" in run.stdout, run.stderr
  assert not run.stderr.count("Traceback"), run.stderr


def test_all_methods_compute_the_gradient(x64, beside):
  """Fails if a baseline computes something else, and so may be faster."""
  from baselines import gradient_methods

  model = create(dtype="float64")
  methods = gradient_methods(model, 12, (4, 12, 20))
  # full; and for the only C that is below T, the baseline and three policies.
  assert list(methods) == [
    ("full", 12),
    ("lax.scan(jax.checkpoint)", 4),
    *((f"slim, {policy}", 4) for policy in ("store", "sqrt", "rewind")),
  ]
  args = params_of(model), batch_of(12)
  # Six chunks are two groups of three: neither a square nor a prime.
  methods |= gradient_methods(model, 12, (2,), two_level=True)
  full, *found = (
    jax.jit(methods[name])(*args)
    for name in (
      ("full", 12),
      ("lax.scan(jax.checkpoint)", 4),
      ("two-level lax.scan(jax.checkpoint)", 2),
    )
  )
  for gradient in found:
    assert_gradients_close(gradient, full, 1e-12)


def test_policies_are_measured_under_their_names(monkeypatch, beside):
  """Fails if a table gives one policy the numbers of another."""
  import baselines

  monkeypatch.setattr(baselines, "make_value_and_grad", lambda _, **how: how)
  methods = baselines.gradient_methods(None, 8, (4,))
  assert methods["full", 8] == {"method": "full"}
  for policy in ("store", "sqrt", "rewind"):
    how = {"method": "slim", "chunk_size": 4, "policy": policy}
    assert methods[f"slim, {policy}", 4] == how


def test_the_figure_of_memory_is_that_of_its_results(beside, tmp_path):
  """Fails if the figure of the README shows other numbers than the JSON."""
  import memory_vs_length

  results = FOLDER / "results"
  record = json.loads((results / "memory_vs_length.json").read_text())
  memory_vs_length.draw(record["rows"], tmp_path / "figure.svg")
  # Labels are comments of the paths that draw them.
  found, committed = (
    re.findall("<!-- (.*) -->", path.read_text())
    for path in (tmp_path / "figure.svg", results / "memory_vs_length.svg")
  )
  assert found and found == committed


@pytest.mark.parametrize("count", [1, 2])
def test_the_tradeoff_is_drawn(beside, tmp_path, count):
  """Fails if measuring for an hour ends in an error."""
  import slim_tradeoff

  rows = [
    {
      "configuration": "II",
      "method": method,
      "chunk_size": chunk_size,
      "over_full": 1.2,
      "activation_MiB": 10.0,
      "error": 1e-7,
    }
    for method, chunk_size in (("full", 8), ("a", 2), ("a", 4), ("b", 2))
  ]
  slim_tradeoff.draw([rows] * count, tmp_path / "figure.svg")
  assert "C, tokens" in (tmp_path / "figure.svg").read_text()


def test_learning_curves_are_drawn(beside, tmp_path):
  """Fails if training for an hour ends in an error."""
  import learning_curves

  record = {
    "steps_of_paper": 4,
    "curves": {"full": [[1, 2.0], [2, 1.0]], "slim-256": [[1, 2.0]]},
    "rows": [{"run": "full", "steps": 2}, {"run": "slim-256", "steps": 1}],
  }
  learning_curves.draw({"ptb": record}, tmp_path / "figure.svg")
  figure = (tmp_path / "figure.svg").read_text()
  assert "bits per byte" in figure
  assert "2 of 4 steps" in figure
  assert "slim, smaller C" in figure
  assert "slim, larger C" not in figure


def test_softmax_memory_is_drawn(beside, tmp_path):
  """Fails if measuring for an hour ends in an error, as for a missing time."""
  import softmax_memory

  rows = [
    {
      "tokens": tokens,
      "is_causal": is_causal,
      "pass": passes,
      "implementation": "slim",
      "overhead_MiB": 1.0,
      "seconds": None if tokens == 4 else 0.1,
    }
    for tokens in (2, 4)
    for is_causal in (False, True)
    for passes in ("forward", "gradient")
  ]
  softmax_memory.draw(rows, tmp_path / "figure.svg")
  assert "overhead, MiB" in (tmp_path / "figure.svg").read_text()


def test_probabilities_attention_is_attention(x64, beside):
  """Fails if a baseline computes something else, and so may need less."""
  from baselines import probabilities_attention

  def value_and_cotangents(attend, q, k, v, y_ct):
    attend = functools.partial(attend, is_causal=True)
    y, vjp = jax.vjp(attend, q, k, v)
    return y, vjp(y_ct)

  random = np.random.default_rng(0)
  q, k, v, y_ct = (
    jnp.asarray(random.normal(size=(2, 9, 3, 4))) for _ in "qkvy"
  )
  found, right = (
    jax.jit(functools.partial(value_and_cotangents, attend))(q, k, v, y_ct)
    for attend in (probabilities_attention, softmax_attention)
  )
  assert_gradients_close(found, right, 1e-12)


def test_reformer_memory_is_drawn(beside, tmp_path):
  """Fails if half an hour of compiling ends in an error."""
  import reformer_memory

  rows = [
    row | {"activation_MiB": float(reformer_memory.FORMULAS[row["model"]](row))}
    if row["model"] in reformer_memory.FORMULAS
    else row | {"activation_MiB": 1.0}
    for row in reformer_memory.plan(quick=False)
  ]
  exponents = reformer_memory.growth(rows)
  for row in exponents:
    np.testing.assert_allclose(row["exponent"], row["of_formula"], atol=1e-3)
  found = {row["of"]: row for row in reformer_memory.marks(rows, exponents)}
  assert found["Reformer, 2 to 12 layers, %"]["is_met"]
  assert not found["Reformer, 2 to 16 hashes, %"]["is_met"]
  formula = reformer_memory.FORMULAS["LSH Transformer, published form"]
  largest = "max(length * mlp_width, 8 * length * hashes * 128)"
  assert str(formula) == f"{largest} * layers"
  timeline = {"live_MiB": [1.0, 3.0, 2.0], "peak_MiB": 3.0}
  timelines = dict.fromkeys(reformer_memory.MODELS, timeline)
  reformer_memory.draw(rows, tmp_path / "figure.svg")
  reformer_memory.draw_timelines(rows, timelines, tmp_path / "timelines.svg")
  assert "rounds of hashing" in (tmp_path / "figure.svg").read_text()
  assert "probabilities only" in (tmp_path / "timelines.svg").read_text()


def test_medians_belong_to_their_programs(beside):
  """Fails if a table gives one program the time of another."""
  from measurements import median_seconds

  programs = {"slow": lambda: time.sleep(0.02), "none": None, "fast": int}
  seconds = median_seconds(programs, rounds=3)
  assert list(seconds) == ["slow", "none", "fast"]
  assert seconds["none"] is None
  assert seconds["fast"] < 0.02 <= seconds["slow"]
