"""The ways to compute a gradient."""

from slim.plan.gradient_choice import GradientChoice, list_choices


def test_choices_of_a_model():
  """Fails if a chunk size is missing, or C = T is listed as slim."""
  found = list_choices(
    64, policies=["rewind", "store"], remat=True, reversible=False
  )
  assert [x[:3] for x in found] == [
    ("full", None, None),
    ("remat", None, None),
    ("slim", 16, "rewind"),
    ("slim", 32, "rewind"),
    ("slim", 16, "store"),
    ("slim", 32, "store"),
  ]
  [only] = list_choices(64, policies=[], remat=False, reversible=True)
  assert only == GradientChoice("full", None, None, True)
