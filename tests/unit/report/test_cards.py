from pathlib import Path

from tests.fake_run import SIDE, fake_run

from milscope.report._cards import Room, cards
from milscope.report._gather import gather


def test_cells_of_test_slides_are_shown_before_those_of_others(tmp_path: Path):
    run, shown = gather(fake_run(tmp_path / "run")), []
    made = list(cards(run, Room(4, 24, 5000), shown.append))
    assert len(shown) == 4
    assert [card.row.slide for card in made] == run.slides["slide"].tolist()
    assert {card.row.split for card in made if card.crops} == {"test"}


def test_a_card_has_its_cells_in_order_with_place_and_scale(tmp_path: Path):
    card = next(cards(gather(fake_run(tmp_path / "run")), Room(60, 5, 5000), lambda _: None))
    assert [crop.rank for crop in card.crops] == [1, 2, 3, 4, 5]
    assert card.thumbnail is not None
    assert all(0 <= crop.x <= SIDE and crop.bar.microns == 10 for crop in card.crops)


def test_cells_without_a_place_are_shown_without_a_map(tmp_path: Path):
    card = next(cards(gather(fake_run(tmp_path / "run", places=False)), Room(60, 24, 5000), lambda _: None))
    assert card.thumbnail is None
    assert all(crop.x is None for crop in card.crops)
