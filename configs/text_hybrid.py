"""The bytes of any file: gated DeltaNet and softmax attention, with SLiM.

The first 90 % of the file are for training, the next 5 % for validation and the
last 5 % for testing.

Command:   python -m slim.train --config=configs/text_hybrid.py \
             --config.data.path=mybook.txt --workdir=runs/text_hybrid
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.text(config)
  presets.hybrid(config)
  config.model.update(num_layers=4, num_kv_heads=2)
  config.gradient.chunk_size = 512
  config.optimizer.update(learning_rate=3e-4, warmup_steps=100)
  return presets.variant(config, variant)
