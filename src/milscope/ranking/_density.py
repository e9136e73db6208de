"""Order cells by how much likelier they are on positive slides than on normal ones."""

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

from milscope.ranking._crossfit import Lesson, Scorer, cross_fitted
from milscope.ranking._seen import Seen

STRENGTH = 0.001
"""Inverse strength of the penalty on weights (`C` of scikit-learn)."""


def density(seen: Seen) -> Float[np.ndarray, " cell"]:
    r"""The logarithm of the ratio of a cell's density on positive slides to that on normal slides, up to a constant.

    $$ s = \log \frac{p(h \mid \text{positive slide})}{p(h \mid \text{normal slide})} = \log \frac{P(\text{positive} \mid h)}
    {P(\text{normal} \mid h)} + \text{const} $$

    by a classifier of cells into those of positive and of normal slides. If w of a positive slide's cells are abnormal, the
    ratio is 1 - w + w times that of abnormal to normal cells: it orders cells as that does. No slide is scored by a classifier
    that learned from it.

    Args:
        seen: Cells and slide labels; only features are looked at.

    Raises:
        InputError: If there are no features, or fewer than two normal or positive slides.

    Source:
        Sugiyama, Suzuki, Kanamori, Density ratio estimation in machine learning, 2012, chapter 4.
    """
    return cross_fitted(seen, lambda lesson: classifier(lesson, ~lesson.normal), positives=True)


def classifier(lesson: Lesson, abnormal: Bool[np.ndarray, " row"], taken: Bool[np.ndarray, " row"] | None = None) -> Scorer:
    """The logit of a logistic regression for which both classes count alike.

    Args:
        lesson: The cells.
        abnormal: Which of them are called abnormal.
        taken: Which are learned from; all if None.
    """
    rows = np.ones(len(abnormal), bool) if taken is None else taken
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300, tol=1e-3)
    model.fit(lesson.features[rows], abnormal[rows])
    return lambda features: model.decision_function(features).astype(float)
