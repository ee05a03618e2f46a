"""The error of gradients, defined once, and grids of test cases."""

import itertools

import jax
import numpy as np
import pytest

# The largest error of a gradient, as `relative_errors` defines it, between two
# ways to compute the same thing in one precision; for outputs and states, too.
TOLERANCES = {"float64": 1e-12, "float32": 5e-6}


def relative_errors(a, b):
  """Measures how far gradients `a` are from `b`, parameter by parameter.

  error = |a - b| / max(|b|, 1e-3 * |all of b|), Euclidean norms, formed in
  float64. The second term is for parameters whose gradient is zero but for
  rounding, such as the bias of a softmax attention's keys.

  Args:
    a: Pytree of arrays, what is tested.
    b: Pytree of arrays of the same structure and shapes, what is right.

  Returns:
    A dict from the path of a parameter, as "block_0/kernel", to its error.

  Raises:
    AssertionError: If structures or shapes differ.
  """
  a, b = _by_path(a), _by_path(b)
  assert a.keys() == b.keys(), f"one side only: {sorted(a.keys() ^ b.keys())}"
  whole = np.sqrt(sum(np.sum(np.square(x)) for x in b.values()))
  errors = {}
  for path, right in b.items():
    shape = a[path].shape
    assert shape == right.shape, f"{path} is {shape}, expected {right.shape}"
    distance = np.linalg.norm(np.ravel(a[path] - right))
    scale = max(np.linalg.norm(np.ravel(right)), 1e-3 * whole)
    # Where all of b is zero, nothing but zero is right.
    near = 0.0 if distance == 0 else np.inf
    errors[path] = float(distance / scale) if scale else near
  return errors


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
  sizes = [len(values) for values in axes.values()]
  cover = _cover(sizes)
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


def _cover(sizes):
  """Chooses, greedily, index tuples in which all pairs of indices meet."""
  strength = min(2, len(sizes))
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


def _by_path(tree):
  """Maps the path of each leaf to its values in float64."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(
      leaf, np.float64
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
