"""Types of the functions that a scan over chunks takes."""

from typing import Any, Protocol


class StepFn(Protocol):
  """Computes one chunk: `step(params, state, chunk) -> (state, out)`."""

  def __call__(  # noqa: D102
    self, params: Any, state: Any, chunk: Any, /
  ) -> tuple[Any, Any]: ...


class RewindFn(Protocol):
  """Undoes and recomputes one chunk, from the state after it.

  `rewind(params, state_after, chunk) -> (state_before, out, state_after)`.
  """

  def __call__(  # noqa: D102
    self, params: Any, state_after: Any, chunk: Any, /
  ) -> tuple[Any, Any, Any]: ...
