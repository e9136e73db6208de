import pytest
from matplotlib.backends.backend_svg import FigureCanvasSVG


@pytest.fixture
def plain_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are laid out but not drawn: a page's words are tested in a third of the time."""
    monkeypatch.setattr(FigureCanvasSVG, "print_svg", lambda _, file, **__: file.write('<svg viewBox="0 0 9 9">\n</svg>'))
