import re
import xml.etree.ElementTree as ElementTree

from milscope.report import ComparedModel, ComparisonPage, comparison_page
from milscope.report._comparison import _differences, _values

MODELS = [
    ComparedModel("first", (0.8, 0.7, 0.9), [0.79, 0.81], None, False, ["first", "0.80"]),
    ComparedModel("alike", (0.78, 0.7, 0.9), [0.77, 0.79], (-0.02, -0.05, 0.01), False, ["alike", "0.78"]),
    ComparedModel("<worse>", (0.6, 0.5, 0.7), [0.6, 0.6], (-0.2, -0.3, -0.1), True, ["<worse>", "0.60"]),
]
PAGE = ComparisonPage("abnormal", "AUC", ["A sentence."], ["a warning"], ["model", "AUC"], MODELS,
                      [("seeds", "2", "repetitions")])


def dots(svg):
    """The colours of the dots of a chart, edge and fill, from top to bottom."""
    places = [(float(use.attrib["y"]), use.attrib["style"]) for use in ElementTree.fromstring(svg).iter("use")
              if "fill" in use.attrib.get("style", "") and "var(--series" in use.attrib["style"]]
    return [re.findall(r"(?:fill|stroke): var\(--([\w-]+)\)", style) for _, style in sorted(places)]


def test_everything_is_on_the_page_and_nothing_is_fetched():
    page = comparison_page(PAGE)
    for part in ("A sentence.", "a warning", "3 slide models", "&lt;worse&gt;", "<code>seeds</code>", "AUC less that of first"):
        assert part in page
    assert "<worse>" not in page
    assert "Read with care" not in comparison_page(PAGE._replace(warnings=[]))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_what_is_told_apart_differs_in_shape_and_colour():
    filled = dict(zip(("alike", "worse"), dots(str(_differences(PAGE).svg)), strict=True))
    assert set(filled["alike"]) == {"surface", "series-1"}
    assert set(filled["worse"]) == {"series-2"}


def test_every_model_is_named_and_has_a_dot():
    svg = str(_values(PAGE).svg)
    assert len(dots(svg)) == 3
    for model in MODELS:
        assert f">{model.name.replace('<', '&lt;').replace('>', '&gt;')}</text>" in svg
