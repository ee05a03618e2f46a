"""Enwik8 byte by byte, with a Reformer.

A Reformer of the same size as `enwik8_slim.py`, on the same data: local and LSH
attention in turn, in reversible layers, with axial positions.

Command:   python -m slim.train --config=configs/enwik8_reformer.py \
             --workdir=runs/enwik8_reformer
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.enwik8(config)
  presets.reformer(config)
  config.model.positions = "axial"
  config.optimizer.update(learning_rate=2e-4, warmup_steps=1_000)
  return presets.variant(config, variant)
