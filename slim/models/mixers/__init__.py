"""What mixes the tokens of a layer: one file and one line here for each."""

from functools import partial

from slim.models.mixers.delta import create_delta
from slim.models.mixers.gated import GatedSettings
from slim.models.mixers.gdn import create_gdn
from slim.models.mixers.gla import create_gla
from slim.models.mixers.kda import create_kda
from slim.models.mixers.linear import LinearSettings, create_linear
from slim.models.mixers.local import LocalSettings, create_local
from slim.models.mixers.lsh import LSHSettings, create_lsh
from slim.models.mixers.mixer import MixerKind
from slim.models.mixers.retention import create_retention
from slim.models.mixers.softmax import (
  ATTENTIONS,
  SoftmaxSettings,
  create_softmax,
)
from slim.models.mixers.ssd import create_ssd

# By the names that the setting `attention` has.
MIXERS = {
  "linear": MixerKind(LinearSettings, create_linear),
  **{
    name: MixerKind(SoftmaxSettings, partial(create_softmax, name))
    for name in ATTENTIONS
  },
  "local": MixerKind(LocalSettings, create_local),
  "lsh": MixerKind(LSHSettings, create_lsh),
  "retention": MixerKind(GatedSettings, create_retention),
  "ssd": MixerKind(GatedSettings, create_ssd),
  "gla": MixerKind(GatedSettings, create_gla),
  "delta": MixerKind(GatedSettings, create_delta),
  "gdn": MixerKind(GatedSettings, create_gdn),
  "kda": MixerKind(GatedSettings, create_kda),
}
