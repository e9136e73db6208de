"""From cells to features."""

from milscope.encoders._backbone import Encoder, load_encoder
from milscope.encoders._freeze import freeze
from milscope.encoders._heads import Projector
from milscope.encoders._small_maps import quicken

__all__ = ["Encoder", "Projector", "freeze", "load_encoder", "quicken"]
