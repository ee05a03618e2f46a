"""Data: each batch is a pure function of the settings and the step."""

from slim.data.copying import Copying
from slim.data.dataset import Dataset
from slim.data.registry import DATASETS, DataSettings, create_dataset
from slim.data.text import Text

__all__ = [
  "DATASETS",
  "Copying",
  "DataSettings",
  "Dataset",
  "Text",
  "create_dataset",
]
