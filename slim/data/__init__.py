"""Data: each batch is a pure function of the settings and the step."""

from slim.data.copying import Copying
from slim.data.dataset import SPLITS, Dataset
from slim.data.documents import positions_between
from slim.data.recall import AssociativeRecall
from slim.data.registry import (
  DATASETS,
  create_dataset,
  create_vocabulary,
)
from slim.data.settings import DataSettings, is_packed
from slim.data.text import Text
from slim.data.tokenizer import check_tokenizer
from slim.data.vocabulary import Vocabulary

__all__ = [
  "DATASETS",
  "SPLITS",
  "AssociativeRecall",
  "Copying",
  "DataSettings",
  "Dataset",
  "Text",
  "Vocabulary",
  "check_tokenizer",
  "create_dataset",
  "create_vocabulary",
  "is_packed",
  "positions_between",
]
