"""Enwik8 byte by byte: gated DeltaNet and softmax attention, trained with SLiM.

Each fourth layer is softmax attention to all tokens before. The gradient needs
its cache, the cotangent of the cache, a state of each other layer for each
chunk, and the activations of one chunk.

Command:   python -m slim.train --config=configs/enwik8_gdn_hybrid.py \
             --workdir=runs/enwik8_gdn_hybrid
Result:    not run at full size yet.
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.enwik8(config)
  presets.hybrid(config)
  config.model.update(num_layers=4, num_kv_heads=4)
  config.gradient.chunk_size = 1024
  config.optimizer.update(learning_rate=2e-4, warmup_steps=1_000)
  return presets.variant(config, variant)
