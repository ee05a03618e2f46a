"""PTB byte by byte, with a Reformer.

A Reformer of the same size as `ptb_slim.py`, on the same data: local and LSH
attention in turn, in reversible layers.

Command:   python -m slim.train --config=configs/ptb_reformer.py \
             --workdir=runs/ptb_reformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.ptb(config)
  presets.reformer(config)
  config.optimizer.update(learning_rate=3e-4, warmup_steps=1_000)
  return presets.variant(config, variant)
