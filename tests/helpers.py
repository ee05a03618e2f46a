"""Tolerances of gradients, quick compilation, and grids of test cases."""

import itertools

import jax
import numpy as np
import pytest

from slim import config as config_lib
from slim.errors import relative_errors

# The largest error of a gradient, as `slim.errors` defines it, between two
# ways to compute the same thing in one precision; for outputs and states, too.
TOLERANCES = {"float64": 1e-12, "float32": 5e-6}

# Of `jax.jit`, for a program that runs once and is compared in float64: what
# the compiler makes of it is not what is asked, and it takes a third to half.
FAST = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # Later ones have lost the choice.
  FAST["xla_cpu_use_fusion_emitters"] = False


# Of `make_config`, for a model that compiles and runs in seconds.
SMALL = dict(
  model__width=16,
  model__num_layers=1,
  model__num_heads=2,
  data__sequence_length=16,
  data__vocab_size=8,
  train__batch_size=4,
)


def fast_for(dtype):
  """The compiler's options for a test that runs in both types."""
  return FAST if dtype == "float64" else None


def make_config(**settings):
  """Returns settings that differ from the defaults, dots written as __."""
  config = config_lib.base()
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in settings.items()}
  )
  return config


def init_params(model, seed=0):
  """Samples parameters in one program; one an operation takes five times."""
  return jax.jit(model.init, compiler_options=FAST)(jax.random.key(seed))


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
  """Lists the cases of a grid, most of them for `--full` only.

  Those that always run are a cover: any two values of any two axes meet in one
  of them. Most faults need no more than two settings to show.

      @pytest.mark.parametrize("case", pairwise(chunk=[1, 7], norm=["pre"]))
      def test_it(case):
        f(**case)

  Args:
    **axes: For each argument of the test, the values it takes.

  Returns:
    A list for `pytest.mark.parametrize`, of the whole product in its order,
    one dict {axis: value} a case. Cases outside the cover are marked `full`.
  """
  return _grid(axes, strength=2)


def each_value(**axes):
  """Lists the cases of a grid as `pairwise`, for tests that take long.

  In those that always run any value of any axis is met, not any two.

  Args:
    **axes: As of `pairwise`.

  Returns:
    As `pairwise`.
  """
  return _grid(axes, strength=1)


def _grid(axes, strength):
  """The product of the axes; what is not in the cover is marked `full`."""
  sizes = [len(values) for values in axes.values()]
  cover = _cover(sizes, strength)
  cases = []
  for indices in itertools.product(*map(range, sizes)):
    case = {
      name: values[i]
      for (name, values), i in zip(axes.items(), indices, strict=True)
    }
    cases.append(
      pytest.param(
        case,
        id="-".join(f"{name}={_name(x)}" for name, x in case.items()),
        marks=() if indices in cover else pytest.mark.full,
      )
    )
  return cases


def _cover(sizes, strength):
  """Chooses, greedily, index tuples in which any so many indices meet."""
  strength = min(strength, len(sizes))
  groups = list(itertools.combinations(range(len(sizes)), strength))

  def met(indices):
    return {(axes, tuple(indices[i] for i in axes)) for axes in groups}

  candidates = list(itertools.product(*map(range, sizes)))
  missing = set().union(*map(met, candidates))
  cover = set()
  while missing:
    best = max(candidates, key=lambda indices: len(met(indices) & missing))
    cover.add(best)
    missing -= met(best)
  return cover


def _name(value):
  """Names a value in the identifier of a case."""
  return getattr(value, "__name__", str(value))
