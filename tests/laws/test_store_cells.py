"""Laws of the cell store: what is written is read; a write that was interrupted leaves nothing."""

import string

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milscope.slides import Cell
from milscope.store import CellWriter
from milscope.store._cells import BATCH

number = st.floats(allow_nan=False, allow_infinity=False)
cells = st.builds(Cell, st.text(string.printable), st.none() | number, st.none() | number, number, number,
                  st.none() | number, st.binary())


def read(path):
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(cells, min_size=1, max_size=20))
def test_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("cells") / "a.arrow"
    with CellWriter(path, "a") as writer:
        for row in rows:
            writer.add(row)
    table = read(path)
    assert [Cell(**row) for row in table.to_pylist()] == rows
    assert table.schema.metadata == {b"milscope_format": b"cells", b"milscope_version": b"1", b"slide": b"a"}


def test_more_than_a_batch(tmp_path):
    rows = [Cell(str(i), i, i, 1.0, 1.0, None, bytes([i % 256])) for i in range(2 * BATCH + 3)]
    with CellWriter(tmp_path / "a.arrow", "a") as writer:
        for row in rows:
            writer.add(row)
    assert [Cell(**row) for row in read(tmp_path / "a.arrow").to_pylist()] == rows


@pytest.mark.parametrize("written", [1, BATCH + 1])
def test_an_interrupted_write_leaves_nothing(tmp_path, written):
    def interrupted():
        with CellWriter(tmp_path / "a.arrow", "a") as writer:
            for _ in range(written):
                writer.add(Cell("c", None, None, 1.0, 1.0, None, b"x"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rewrite_leaves_the_old_file(tmp_path):
    with CellWriter(tmp_path / "a.arrow", "a") as writer:
        writer.add(Cell("old", None, None, 1.0, 1.0, None, b"x"))

    def interrupted():
        with CellWriter(tmp_path / "a.arrow", "a") as writer:
            writer.add(Cell("new", None, None, 1.0, 1.0, None, b"x"))
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        interrupted()
    assert read(tmp_path / "a.arrow")["cell"].to_pylist() == ["old"]
    assert len(list(tmp_path.iterdir())) == 1
