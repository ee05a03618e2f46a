"""Language models, as plain functions over Flax Linen modules."""

from slim.models.create import (
  count_stacks,
  create_model,
  list_model_settings,
)

__all__ = ["count_stacks", "create_model", "list_model_settings"]
