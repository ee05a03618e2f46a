"""Losses and gradients of each model stay what they were.

The numbers were computed before the models shared one language model
(commit 7deb813), those of the recurrences on 2026-11-30. A change of
parameters, names, random bits or formulas would show here; rounding, which
differs between machines, does not.
"""

import jax
import numpy as np
import pytest

from tests.models import small

# Settings, the gradient, and (loss in nats, norm of the gradient, sum of the
# gradient's absolute values), all computed with dropout of 0.1.
CASES = {
  "linear": (
    {"num_layers": 2},
    {"method": "slim", "chunk_size": 8, "policy": "rewind"},
  ),
  "linear_store": (
    {"feature_map": "elu_plus_one", "norm": "post"},
    {"method": "slim", "chunk_size": 7, "policy": "store"},
  ),
  "favor": (
    {"feature_map": "favor", "qk_norm": True, "num_features": 12},
    {"method": "slim", "chunk_size": 7, "policy": "rewind"},
  ),
  "linear_reversible": (
    {"reversible": True, "norm": "pre", "num_layers": 2},
    {"method": "slim", "chunk_size": 8, "policy": "sqrt"},
  ),
  "linear_tied": (
    {"positions": "learned", "tied_output": True, "final_norm": True},
    {"method": "remat"},
  ),
  "softmax": (
    {"attention": "softmax", "positions": "rotary", "output_projection": True},
    {"method": "full"},
  ),
  "chunked_and_local": (
    {
      "attention": "chunked_softmax,local",
      "positions": "axial",
      "num_layers": 2,
      "norm": "pre",
    },
    {"method": "remat"},
  ),
  "lsh_and_local": (
    {
      "attention": "lsh,local",
      "positions": "rotary",
      "num_layers": 2,
      "reversible": True,
      "mlp_chunk_size": 7,
    },
    {"method": "full"},
  ),
  "delta_rules": (
    {"attention": "delta,gdn,kda", "num_layers": 3, "norm": "pre"},
    {"method": "full"},
  ),
  "decays": (
    {"attention": "retention,ssd,gla", "num_layers": 3, "norm": "pre"},
    {"method": "full"},
  ),
}
GOLDEN = {
  "linear": (69.26276, 104.132, 3346.866),
  "linear_store": (48.61277, 21.8334, 534.8557),
  "favor": (72.62682, 72.08356, 1674.188),
  "linear_reversible": (50.45057, 23.44751, 786.7079),
  "linear_tied": (186.9257, 69.67186, 1452.151),
  "softmax": (75.81267, 67.25119, 2205.879),
  "chunked_and_local": (67.46481, 64.81983, 2404.525),
  "lsh_and_local": (52.83117, 39.60845, 1439.132),
  "delta_rules": (68.42657, 120.0336, 5483.931),
  "decays": (70.2782, 216.8012, 10349.11),
}


def compute(name):
  """Returns loss, gradient norm and absolute sum, and all gradients."""
  settings, how = CASES[name]
  model = small.create(dtype="float32", dropout=0.1, **settings)
  params = small.params_of(model)
  value_and_grad = small.gradient_of(model, **how)
  sums, gradients = value_and_grad(params, small.batch_of(24), small.KEYS)
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(gradients)]
  norm = np.sqrt(sum(np.square(x).sum() for x in leaves))
  total = sum(np.abs(x).sum() for x in leaves)
  return (float(sums.nll), float(norm), float(total)), leaves


# A program each, so most of them wait for `make test-slow`.
_QUICK = ("linear", "favor", "lsh_and_local")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow)
    for name in CASES
  ],
)
def test_losses_and_gradients_are_those_of_before(name):
  """Fails if a model computes something else than it did."""
  found, _ = compute(name)
  np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-5)
