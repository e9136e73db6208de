"""What speaks against trusting the figures, in sentences."""

from collections.abc import Iterator, Mapping

import numpy as np

from milscope.evaluate._about import About, few
from milscope.metrics import Interval, SlideScores

FEW_PATIENTS = 10
WIDE_INTERVAL = 0.3


def slide_warnings(slides: SlideScores, auc: Interval, about: About) -> Iterator[str]:
    """What is wrong with the slides of the main task, and with what was made of them."""
    if about.config.transductive:
        yield (f"Transductive: {len(about.seen)} of the {len(about.judged)} test patients were also learned from, "
               "so the figures are too good.")
    if about.missing:
        yield f"Left out: {n(len(about.missing), 'test slide', 'test slides')} without a score ({few(about.missing)})."
    if about.unlabelled:
        yield f"Left out: {n(about.unlabelled, 'test slide', 'test slides')} without a label."
    yield from _tiny_classes(slides)
    value, low, high = auc
    if high - low > WIDE_INTERVAL:
        yield f"The interval of the slide AUC is wide ({low:.2f} to {high:.2f}): more test patients are needed."
    if high == low:
        yield (f"The interval of the slide AUC has no width (every draw gives {value:.2f}): it cannot show what these "
               "patients do not contain.")
    called = slides.called
    if len(called) > 1 and called.all() != (~called).all():
        said = "positive" if called.all() else "negative"
        yield f"The threshold {about.origin.summary.get('threshold')} calls every test slide {said}: choose another."


def few_of_a_class(patients: Mapping[str, int]) -> Iterator[str]:
    """Which classes have no test patient, or few.

    Args:
        patients: Of each class.
    """
    none = [name for name, count in patients.items() if not count]
    some = [f"{name} ({count})" for name, count in patients.items() if 0 < count < FEW_PATIENTS]
    if none:
        yield f"no test slide is {', '.join(none)}: what needs it is undefined, means are over the others."
    if some:
        yield f"few test patients are {', '.join(some)}: read the intervals, not the values."


def n(count: int, one: str, many: str) -> str:
    """The count with its noun."""
    return f"{count:,} {one if count == 1 else many}"


def _tiny_classes(slides: SlideScores) -> Iterator[str]:
    kinds = {name: len({*np.asarray(slides.patients)[slides.labels == kind]}) for name, kind in
             (("positive", True), ("negative", False))}
    for name, other in (("positive", "negative"), ("negative", "positive")):
        if not kinds[name]:
            yield f"All test slides are {other}: AUC and what else compares the two classes is undefined."
        elif kinds[name] < FEW_PATIENTS:
            yield f"Only {n(kinds[name], 'test patient is', 'test patients are')} {name}: read the intervals, not the values."
