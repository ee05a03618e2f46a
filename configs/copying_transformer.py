"""Copying task of the SLiM paper, with a Transformer.

A Transformer baseline of the same size as `copying_slim.py`, on the same data.

Command:   python -m slim.train --config=configs/copying_transformer.py \
             --workdir=runs/copying_transformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.copying(config)
  presets.transformer(config)
  config.optimizer.update(learning_rate=1e-3, warmup_steps=500)
  return presets.variant(config, variant)
