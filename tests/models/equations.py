"""The equations of a function, which are slow to print and quick to walk."""

import jax
from jax.extend.core import jaxprs_in_params


def equations_of(function, *args):
  """Lists the equations of a function, and those of all inside of them."""
  found, rest = [], [jax.make_jaxpr(function)(*args).jaxpr]
  while rest:
    equations = rest.pop().eqns
    found += equations
    for equation in equations:
      rest += jaxprs_in_params(equation.params)
  return found
