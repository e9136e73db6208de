"""What an encoder is trained to do."""

from milscope.objectives._contrastive import NTXent
from milscope.objectives._similarity import Similarity

__all__ = ["NTXent", "Similarity"]
