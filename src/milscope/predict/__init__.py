"""The stage `predict`: what the model says of every slide and patient, and of each cell."""

from milscope.predict._predict import Predicted, predict
from milscope.predict._tables import write_slides

__all__ = ["Predicted", "predict", "write_slides"]
