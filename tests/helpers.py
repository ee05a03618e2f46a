"""Tolerances of gradients, compiler options, and grids of test cases."""

import itertools

import jax
import numpy as np
import pytest

from slim import config as config_lib
from slim.certify.gradient_error import relative_errors

# The largest error of a gradient, as `slim.certify.gradient_error` defines it,
# between two ways to compute the same thing in one precision; for outputs and
# states, too.
TOLERANCES = {"float64": 1e-12, "float32": 5e-6}

# `compiler_options` of a test that asks what users' programs take or round:
# conftest.py compiles all others quickly.
AS_USERS = {
  "xla_backend_optimization_level": 3,
  "xla_llvm_disable_expensive_passes": False,
}
if jax.__version_info__ < (0, 11):  # Later versions always have it.
  AS_USERS["xla_cpu_use_fusion_emitters"] = True


# Of `make_config`, for a model that compiles and runs in seconds.
SMALL = dict(
  model__width=16,
  model__num_layers=1,
  model__num_heads=2,
  data__sequence_length=16,
  data__vocab_size=8,
  train__batch_size=4,
)


def make_config(**settings):
  """Returns settings that differ from the defaults, dots written as __."""
  config = config_lib.base()
  config.mesh = "data=1"  # The suite has eight devices.
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in settings.items()}
  )
  return config


def init_params(model, seed=0):
  """Samples parameters in one program; one an operation takes five times."""
  return jax.jit(model.init)(jax.random.key(seed))


def assert_gradients_close(a, b, tol):
  """Asserts that no parameter's gradient is further from right than `tol`.

  Args:
    a: Pytree of arrays, what is tested.
    b: Pytree of arrays of the same structure and shapes, what is right.
    tol: The largest error allowed; see `relative_errors`.

  Raises:
    AssertionError: If one is further, or is no number; it names the worst.
  """
  errors = relative_errors(a, b)
  wrong = {path: x for path, x in errors.items() if not x <= tol}
  if wrong:
    worst = max(wrong, key=lambda path: np.nan_to_num(wrong[path], nan=np.inf))
    raise AssertionError(
      f"the gradient of {worst or 'the array'} has error {wrong[worst]:.3g}, "
      f"allowed is {tol:.3g} ({len(wrong)} of {len(errors)} are above)"
    )


def pairwise(**axes):
  """Lists the cases of a grid and says which tier of the suite runs each.

      @pytest.mark.parametrize("case", pairwise(chunk=[1, 7], norm=["pre"]))
      def test_it(case):
        f(**case)

  Args:
    **axes: For each argument of the test, the values it takes.

  Returns:
    A list for `pytest.mark.parametrize`: the whole product in its order, one
    dict {axis: value} a case. `make test` runs a cover in which each value of
    each axis occurs. Cases marked `slow` complete it to a cover in which any
    two values of any two axes meet, as most faults need no more than two
    settings to show. The others are marked `full`.
  """
  return _grid(axes, pair_mark=pytest.mark.slow)


def each_value(**axes):
  """Lists the cases of a grid as `pairwise`, without its `slow` cases.

  Args:
    **axes: For each argument of the test, the values it takes.

  Returns:
    As `pairwise`; cases that are not in the first cover are marked `full`.
  """
  return _grid(axes, pair_mark=pytest.mark.full)


def _grid(axes, pair_mark):
  """The product of the axes; cases outside of the first cover are marked."""
  sizes = [len(values) for values in axes.values()]
  product = list(itertools.product(*map(range, sizes)))
  pairs = _cover(product, strength=min(2, len(sizes)))
  values = _cover(pairs, strength=1)
  cases = []
  for indices in product:
    case = {
      name: values[i]
      for (name, values), i in zip(axes.items(), indices, strict=True)
    }
    mark = pair_mark if indices in pairs else pytest.mark.full
    cases.append(
      pytest.param(
        case,
        id="-".join(f"{name}={_name(x)}" for name, x in case.items()),
        marks=() if indices in values else mark,
      )
    )
  return cases


def _cover(candidates, strength):
  """Chooses, greedily, index tuples in which any so many indices meet."""
  groups = list(itertools.combinations(range(len(candidates[0])), strength))

  def met(indices):
    return {(axes, tuple(indices[i] for i in axes)) for axes in groups}

  missing = set().union(*map(met, candidates))
  cover = []
  while missing:
    best = max(candidates, key=lambda indices: len(met(indices) & missing))
    cover.append(best)
    missing -= met(best)
  return cover


def _name(value):
  """Names a value in the identifier of a case."""
  return getattr(value, "__name__", str(value))
