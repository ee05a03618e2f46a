"""Language models, as plain functions over Flax Linen modules."""

from slim.models.create import create_model, list_model_settings

__all__ = ["create_model", "list_model_settings"]
