"""Tiny Shakespeare byte by byte, a gated DeltaNet trained with SLiM.

Yang et al., 2025, https://arxiv.org/abs/2412.06464. If you have the text, pass
--config.data.path=input.txt.

Command:   python -m slim.train --config=configs/shakespeare_gdn.py \
             --workdir=runs/shakespeare_gdn
Result:    not run at full size yet.
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.shakespeare(config)
  presets.gated_deltanet(config)
  config.gradient.chunk_size = 256
  config.optimizer.update(learning_rate=3e-3, warmup_steps=100)
  return presets.variant(config, variant)
