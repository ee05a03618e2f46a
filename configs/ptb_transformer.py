"""PTB byte by byte, with a Transformer.

A Transformer baseline of the same size as `ptb_slim.py`, on the same data.

Command:   python -m slim.train --config=configs/ptb_transformer.py \
             --workdir=runs/ptb_transformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.ptb(config)
  presets.transformer(config)
  config.optimizer.update(learning_rate=3e-4, warmup_steps=1_000)
  return presets.variant(config, variant)
