"""A journal loses no whole line, keeps no torn one, and leaves files of others alone."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_arbitrage.data.jsonl import JsonlFile
from langgraph_arbitrage.errors import DataError

RECORDS = [{"id": n, "text": text} for n, text in enumerate(("a", "ü\u2028\n", "\ud800", ""))]
WHOLE = b'{"id": 1}\n{"id": 2}\n'


def records(journal: JsonlFile) -> list[object]:
    return [entry.record for entry in journal.entries()]


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for n in range(len(RECORDS)):
        with JsonlFile(path) as journal:
            journal.append(RECORDS[n])
    with JsonlFile(path) as journal:
        assert records(journal) == RECORDS
    assert path.read_bytes().count(b"\n") == len(RECORDS)


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, 1_000), text=st.text(max_size=20))
def test_cut_anywhere_a_file_keeps_exactly_its_whole_lines(
    at: int, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    rows = [{"id": n, "text": text} for n in range(4)]
    with JsonlFile(path) as journal:
        for row in rows:
            journal.append(row)
    data = path.read_bytes()[: at % (path.stat().st_size + 1)]
    path.write_bytes(data)
    with JsonlFile(path) as journal:
        journal.repair()
        journal.append({"id": "after"})
        left = records(journal)
    # A whole line without its line end counts too: nothing of it is missing.
    whole = [row for row in rows if _ends(rows, row) - 1 <= len(data)]
    assert left == [*whole, {"id": "after"}]
    assert path.read_bytes().count(b"\n") == len(left)


def _ends(rows: list[dict[str, object]], row: dict[str, object]) -> int:
    until = rows[: rows.index(row) + 1]
    return sum(len(json.dumps(r, ensure_ascii=False).encode()) + 1 for r in until)


def test_entries_tell_where_they_end_so_that_a_file_can_be_cut_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(WHOLE + b'{"id": 3, "te')
    with JsonlFile(path) as journal:
        entries = list(journal.entries())
        assert [(e.number, e.end) for e in entries] == [(1, 10), (2, 20)]
        journal.cut(entries[0].end)
        journal.append({"id": 9})
        assert records(journal) == [{"id": 1}, {"id": 9}]


@pytest.mark.parametrize("text", [b"Dear diary", b"a,b\n1,2\n", b"{\n  1\n}\n", b"\n"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "diary"
    path.write_bytes(text)
    with JsonlFile(path) as journal, pytest.raises(DataError, match="line 1 is no JSON"):
        journal.repair()
    assert path.read_bytes() == text


def test_two_programs_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with JsonlFile(path):
        with pytest.raises(DataError, match=r"being written by another job"), JsonlFile(path):
            pass
        child = os.fork()
        if not child:
            try:
                with JsonlFile(path):
                    os._exit(0)
            except DataError:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    with JsonlFile(path):
        pass


def test_keeping_some_replaces_the_file_at_once_and_still_holds_it(tmp_path: Path) -> None:
    path, link = tmp_path / "rows.jsonl", tmp_path / "link"
    path.write_bytes(WHOLE)
    link.symlink_to(path)
    (tmp_path / "rows.jsonl.part").write_bytes(b"left by a kill")
    with JsonlFile(link) as journal:
        journal.keep(lambda record: record["id"] == 2)
        journal.append({"id": 3})
        with pytest.raises(DataError, match="another job"), JsonlFile(path):
            pass
    assert path.read_bytes() == b'{"id": 2}\n{"id": 3}\n'
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "rows.jsonl"]


@pytest.mark.parametrize(
    ("path", "told"),
    [("no-such-folder/rows", "No such file"), ("folder", "Is a directory")],
)
def test_a_file_that_cannot_be_written_is_told(path: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=f"cannot be written: {told}"), JsonlFile(tmp_path / path):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_told() -> None:
    with (
        JsonlFile(Path("/dev/full")) as journal,
        pytest.raises(DataError, match="No space left on device"),
    ):
        journal.append({"id": 1})
