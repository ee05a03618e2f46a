"""What mixes the tokens of a layer: one file and one line here for each."""

from functools import partial

from slim.models.mixers.linear import LinearSettings, create_linear
from slim.models.mixers.local import LocalSettings, create_local
from slim.models.mixers.lsh import LSHSettings, create_lsh
from slim.models.mixers.mixer import MixerKind
from slim.models.mixers.softmax import (
  ATTENTIONS,
  SoftmaxSettings,
  create_softmax,
)

# By the names that the setting `attention` has.
MIXERS = {
  "linear": MixerKind(LinearSettings, create_linear),
  **{
    name: MixerKind(SoftmaxSettings, partial(create_softmax, name))
    for name in ATTENTIONS
  },
  "local": MixerKind(LocalSettings, create_local),
  "lsh": MixerKind(LSHSettings, create_lsh),
}
