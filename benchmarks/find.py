"""Finding nuclei: recall of CRIC's marked nuclei against candidates a field, beside scikit-image's recipes on the same pixels.

Everything is chosen on training patients (`milscope.split`, seed 0): of scikit-image's recipes all settings that no other beats
in both recall and candidates. The tables are of test patients. A marked nucleus is found if a candidate of its own (one to one,
the largest matching) lies within 4 µm, the radius of an 8 µm nucleus; 6 µm beside it.
Candidates right of x = 1180 are not counted, because nobody marked nuclei there; nuclei at the border count like others.

* `candidates_over_otsu`, `candidates_over_blob_log`: candidates a field of ours over theirs, at the most that they recall;
* `seconds_over_otsu`, `seconds_over_blob_log`: processor time of ours over theirs, on decoded fields (A B A B …).

    python benchmarks/find.py DATA [--rounds 5] [--json FILE] [--docs docs/find.md]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from _plain_nuclei import Recipe, families
from _timing import in_turn, machine, ratio, table, write_between_marks, write_json
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

import milscope as ms
from milscope.slides import SlideReader, open_slide
from milscope.slides._nuclei import LEAST, STAINS, contrasts

MPP = 0.228
MARKED = 1180
LINES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#777777", "x"))
"""Colour and mark of each curve; told apart by eyes that do not tell red from green, and in black and white."""
RADIUS, WIDER = 4.0, 6.0
EVERY = 6
"""The settings of scikit-image's recipes are tried on every sixth field of the training patients, to be done in minutes."""
COUNTS = (60, 80, 100, 120, 150, 200)
RECALLS = (0.85, 0.9, 0.95, 0.97)
STEPS = (1.3, 1.1, 0.95, 0.8, 0.7, 0.6, 0.55, 0.5, LEAST, 0.4, 0.35, 0.3, 0.25, 0.2, 0.1, 0.0)
CPU = torch.device("cpu")


class Field(NamedTuple):
    """One field, decoded, and where its nuclei are marked."""

    reader: SlideReader
    marked: np.ndarray
    abnormal: np.ndarray


class Point(NamedTuple):
    """One setting: candidates a field, share of the marked nuclei found, and at the wider radius."""

    candidates: float
    recall: float
    wider: float


Curve = list[Point]
Finder = Callable[[SlideReader], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-only", action="store_true", help="leave the test patients alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    train = read_fields(options.data / "cric", "train")
    chosen = {family: choose(recipes, train[::EVERY]) for family, recipes in families().items()}
    curves = {"train": {"milscope": our_curve(train)}}
    torch.set_num_threads(1)
    judged = train[1::EVERY] if options.train_only else read_fields(options.data / "cric", "test")
    name = "train" if options.train_only else "test"
    curves[name] = {"milscope": our_curve(judged)} | {
        family: sorted(plain(recipe, judged) for recipe in recipes) for family, recipes in chosen.items()}
    taken = speed(judged[:12], {name: each[-1] for name, each in chosen.items() if name != "lattice"}, options.rounds)
    used = ", ".join(f"{library} {version(library)}" for library in ("milscope", "scipy", "scikit-image", "numpy", "pillow"))
    text = "\n\n".join([f"{machine(CPU)}; {used}",
                        f"{len(judged)} fields of {name} patients, {sum(len(each.marked) for each in judged)} marked nuclei.",
                        tell(curves[name], taken), stated(judged, curves)])
    ratios = compare(curves[name], taken)
    print(text, *(f"{name} {value:.3f}" for name, value in ratios.items()), sep="\n")
    if options.json:
        write_json(options.json, machine(CPU), {"curves": curves, "ms_a_megapixel": taken}, ratios)
    if options.docs:
        write_between_marks(options.docs, text, "find")
        draw(curves[name], options.docs.with_suffix(".png"))


def read_fields(data: Path, split: str) -> list[Field]:
    """The fields of the patients of a split."""
    slides = ms.split(data / "slides.csv")
    truth = pd.read_csv(data / "cell_truth.csv")
    fields = []
    for slide in slides.loc[slides["split"] == split, "slide"]:
        own = truth[truth["slide"] == slide]
        marked = own[["x", "y"]].to_numpy(float)
        fields.append(Field(open_slide(data / "fields" / f"{slide}.jpg"), marked, (own["label"] != "NILM").to_numpy()))
    return fields


def our_finder(reader: SlideReader, least: float = LEAST) -> np.ndarray:
    found = np.stack(contrasts(reader, diameter=8.0, mpp=MPP, weights=STAINS["papanicolaou"]), axis=1)
    return found[found[:, 2] >= least]


def our_curve(fields: list[Field]) -> Curve:
    """A higher threshold only takes candidates away, so each field is searched once."""
    found = [our_finder(field.reader, 0.0) for field in fields]
    return [judge([each[each[:, 2] >= least] for each in found], fields) for least in STEPS]


def plain_finder(reader: SlideReader, recipe: Recipe) -> np.ndarray:
    size = (round(reader.size[0] * MPP), round(reader.size[1] * MPP))
    return (recipe(reader.region((0, 0), reader.size, size)) + 0.5) / MPP


def plain(recipe: Recipe, fields: list[Field]) -> Point:
    return judge([plain_finder(field.reader, recipe) for field in fields], fields)


def choose(recipes: list[Recipe], fields: list[Field]) -> list[Recipe]:
    """Those that no other beats in both recall and candidates."""
    best = 0.0
    kept = []
    for point, place in sorted((plain(recipe, fields), place) for place, recipe in enumerate(recipes)):
        if point.recall > best:
            best = point.recall
            kept.append(recipes[place])
    return kept


def judge(found: list[np.ndarray], fields: list[Field]) -> Point:
    """Mean candidates a field, and recall over all nuclei of all fields."""
    counted = np.mean([(each[:, 0] <= MARKED).sum() for each in found])
    shares = [np.concatenate([hits(each, field.marked, radius) for each, field in zip(found, fields, strict=True)]).mean()
              for radius in (RADIUS, WIDER)]
    return Point(float(counted), *map(float, shares))


def hits(found: np.ndarray, marked: np.ndarray, radius: float) -> np.ndarray:
    """Which marked nuclei have a candidate of their own."""
    if not len(found):
        return np.zeros(len(marked), dtype=bool)
    near = KDTree(marked).sparse_distance_matrix(KDTree(found[:, :2]), radius / MPP, output_type="coo_matrix")
    links = csr_matrix((np.ones(near.nnz), (near.row, near.col)), shape=near.shape)
    return maximum_bipartite_matching(links, perm_type="column") >= 0


def needed(curve: Curve, recall: float) -> float:
    """Candidates a field at which a recall is reached, between the points; infinite if it is not."""
    best = np.maximum.accumulate([point.recall for point in curve])
    counts = [point.candidates for point in curve]
    return float(np.interp(recall, best, counts)) if recall <= best[-1] else np.inf


def reached(curve: Curve, count: float) -> float:
    """Recall with so many candidates a field; what lies past the end of the curve adds nothing."""
    counts = [point.candidates for point in curve]
    return float(np.interp(count, counts, np.maximum.accumulate([point.recall for point in curve]), left=np.nan))


def speed(fields: list[Field], chosen: dict[str, Recipe], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one processor per megapixel of level 0 on decoded fields, reading at the search's scale included."""
    finders: dict[str, Finder] = {"milscope": our_finder}
    finders |= {family: partial(plain_finder, recipe=recipe) for family, recipe in chosen.items()}
    size = sum(field.reader.size[0] * field.reader.size[1] for field in fields) / 1e6

    def work(finder: Finder) -> float:
        start = time.process_time()
        for field in fields:
            finder(field.reader)
        return 1000 * (time.process_time() - start) / size

    return in_turn({name: partial(work, finder) for name, finder in finders.items()}, rounds)


def tell(curves: dict[str, Curve], taken: dict[str, list[float]]) -> str:
    """Recall at numbers of candidates, candidates at recalls, time."""
    def count(curve: Curve, recall: float) -> str:
        value = needed(curve, recall)
        return f"{value:.0f}" if np.isfinite(value) else "never"

    def share(curve: Curve, number: float) -> str:
        value = reached(curve, number)
        return f"{value:.3f}" if np.isfinite(value) else ""

    names = {name: f"{median(taken[name]):.0f}" if name in taken else "" for name in curves}
    first = table(("recall with so many candidates a field", *map(str, COUNTS), "at most"),
                  [(name, *(share(curve, each) for each in COUNTS), f"{max(point.recall for point in curve):.3f}")
                   for name, curve in curves.items()])
    second = table(("candidates a field for a recall of", *map(str, RECALLS), "ms per megapixel"),
                   [(name, *(count(curve, each) for each in RECALLS), names[name]) for name, curve in curves.items()])
    return f"{first}\n\n{second}"


def stated(fields: list[Field], curves: dict[str, dict[str, Curve]]) -> str:
    """What the default does, with an interval over patients."""
    found = [our_finder(field.reader) for field in fields]
    point = judge(found, fields)
    each = [hits(one, field.marked, RADIUS) for one, field in zip(found, fields, strict=True)]
    counts, totals = np.array([hit.sum() for hit in each]), np.array([len(hit) for hit in each])
    drawn = np.random.default_rng(0).integers(len(fields), size=(2000, len(fields)))
    low, high = np.quantile(counts[drawn].sum(1) / totals[drawn].sum(1), (0.025, 0.975))
    ill = np.concatenate([hit[field.abnormal] for hit, field in zip(each, fields, strict=True)])
    chosen = curves["train"]["milscope"][STEPS.index(LEAST)]
    return (f"With the default threshold ({LEAST:g}): recall {point.recall:.3f} ({low:.3f} to {high:.3f}, 95 % over patients) "
            f"with {point.candidates:.0f} candidates a field; of the {len(ill)} abnormal nuclei {ill.mean():.3f}; "
            f"within {WIDER:g} µm {point.wider:.3f}. On training patients {chosen.recall:.3f} with {chosen.candidates:.0f}.")


def compare(curves: dict[str, Curve], taken: dict[str, list[float]]) -> dict[str, float]:
    ratios = {}
    for short, name in (("otsu", "Otsu, distance transform, watershed"), ("blob_log", "blob_log on haematoxylin")):
        best = max(curves[name], key=lambda point: point.recall)
        ratios[f"candidates_over_{short}"] = needed(curves["milscope"], best.recall) / best.candidates
        ratios[f"seconds_over_{short}"] = ratio(taken["milscope"], taken[name])
    return ratios


def draw(curves: dict[str, Curve], path: Path) -> None:
    """The curves as a picture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, curve), (colour, marker) in zip(curves.items(), LINES, strict=True):
        places = [point.candidates for point in curve], [point.recall for point in curve]
        axes.plot(*places, f"{marker}-", label=name, color=colour, markersize=5)
    axes.axhline(0.95, color="0.8", linewidth=1, zorder=0)
    axes.set(xlim=(0, 350), ylim=(0, 1.01), xlabel="candidates a field", ylabel="share of the marked nuclei found")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
