"""Enwik8 byte by byte, with a Transformer.

A Transformer baseline of the same size as `enwik8_slim.py`, on the same data.

Command:   python -m slim.train --config=configs/enwik8_transformer.py \
             --workdir=runs/enwik8_transformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.enwik8(config)
  presets.transformer(config)
  config.optimizer.update(learning_rate=2e-4, warmup_steps=1_000)
  return presets.variant(config, variant)
