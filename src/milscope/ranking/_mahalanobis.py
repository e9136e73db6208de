"""Order cells by their Mahalanobis distance from the cells of normal slides."""

import numpy as np
from jaxtyping import Float
from sklearn.covariance import LedoitWolf

from milscope.ranking._crossfit import Lesson, Scorer, cross_fitted
from milscope.ranking._seen import Seen


def mahalanobis(seen: Seen) -> Float[np.ndarray, " cell"]:
    r"""How far a cell lies from the middle of normal cells, in their own deviations.

    $$ s = \sqrt{(h - \mu)^T \Sigma^{-1} (h - \mu)} $$

    with a covariance that is shrunk towards a multiple of the identity as much as the number of cells asks for. Each normal
    slide is measured by the others.

    Args:
        seen: Cells and slide labels; only features and normal slides are learned from.

    Raises:
        InputError: If there are no features, or fewer than two normal slides.

    Source:
        Lee et al., A simple unified framework for detecting out-of-distribution samples, 2018, equation 2, with one class.
        Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    return cross_fitted(seen, _learn, positives=False)


def _learn(lesson: Lesson) -> Scorer:
    shrunk = LedoitWolf(store_precision=False).fit(lesson.features[lesson.normal])
    values, vectors = np.linalg.eigh(shrunk.covariance_)
    whiten = (vectors / np.sqrt(np.maximum(values, 1e-8 * max(float(values[-1]), 1e-8)))).astype(lesson.features.dtype)
    centre = shrunk.location_.astype(lesson.features.dtype)
    return lambda features: np.linalg.norm((features - centre) @ whiten, axis=1).astype(float)
