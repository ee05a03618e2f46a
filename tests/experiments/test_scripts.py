"""The scripts of experiments/: what a test can check in seconds."""

import functools
import importlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from slim.kernels import softmax_attention
from tests.experiments.conftest import FOLDER
from tests.helpers import assert_gradients_close
from tests.models.small import batch_of, create, params_of

# The other files are modules that scripts share.
SCRIPTS = sorted(
  path
  for path in FOLDER.glob("*.py")
  if "command_line.run(main)" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_imported(beside, path):
  """Fails if a script uses a name that slim lacks, or has no small run."""
  before = set(flags.FLAGS)
  module = importlib.import_module(path.stem)
  assert callable(module.main)
  small = "mode" if path.stem == "reproduce" else "quick"
  assert small in set(flags.FLAGS) - before
  # A figure can be drawn again from its results.
  assert hasattr(module, "draw_results") == hasattr(module, "draw")


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


def test_models_of_the_reformer_paper_fit_slim(beside):
  """Fails if an attention of an experiment lacks an argument of a layer."""
  import reformer_models

  sizes = reformer_models.QUICK_SIZES | {"layers": 1, "mlp_width": 8}
  for name in reformer_models.MODELS:
    model, _ = reformer_models.make_gradient(name, sizes)
    jax.eval_shape(model.init, jax.random.key(0))


def test_medians_belong_to_their_programs(beside):
  """Fails if a table gives one program the time of another."""
  from measurements import median_seconds

  programs = {"slow": lambda: time.sleep(0.02), "none": None, "fast": int}
  seconds = median_seconds(programs, rounds=3)
  assert list(seconds) == ["slow", "none", "fast"]
  assert seconds["none"] is None
  assert seconds["fast"] < 0.02 <= seconds["slow"]
