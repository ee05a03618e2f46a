"""Faults in packed documents: their positions, and what keeps them apart."""

from mutation import Mutation

MODELS = "models/test_documents.py"
DATA = "data/test_documents.py"

MUTATIONS = [
  Mutation(
    "models/mixers/mixer.py",
    "-jnp.inf, log_decay",
    "log_decay, log_decay",
    MODELS,
  ),
  Mutation(
    "models/mixers/mixer.py",
    "k_index[None, None] >= of_queries",
    "k_index[None, None] >= of_queries - 1",
    MODELS,
  ),
  Mutation(
    "kernels/linear/convolution.py",
    "positions >= distance",
    "positions >= distance - 1",
    MODELS,
  ),
  Mutation(
    "models/language_model.py",
    "jnp.minimum(positions, in_sequence)",
    "positions",
    MODELS,
  ),
  Mutation(
    "models/language_model.py", "is_reset or mixer.kept", "mixer.kept", MODELS
  ),
  Mutation(
    "models/network.py",
    "positions if call.document_positions is None else call.document_positions",
    "positions",
    MODELS,
  ),
  Mutation(
    "data/text.py", "positions(tokens + 1) == 0", "positions(tokens) == 0", DATA
  ),
  Mutation("data/documents.py", 'side="right"', 'side="left"', DATA),
  Mutation(
    "data/text.py", "digest.update(self._documents.starts.data)", "pass", DATA
  ),
  Mutation("data/documents.py", 'and text.split == "train"', "", DATA),
  Mutation("data/documents.py", "or total != size", "", DATA),
  Mutation("models/create.py", "if axis is not None:", "if False:", MODELS),
  Mutation(
    "kernels/linear/convolution.py",
    "positions.shape != x.shape[:2]",
    "False",
    "kernels/linear/test_convolution.py",
  ),
]
