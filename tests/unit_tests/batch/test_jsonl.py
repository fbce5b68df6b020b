"""A `JsonlFile` loses no complete line, keeps no incomplete one, and leaves other files alone."""

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


def records(file: JsonlFile) -> list[object]:
    return [entry.record for entry in file.entries()]


def test_appended_records_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for n in range(len(RECORDS)):
        with JsonlFile(path) as file:
            file.append(RECORDS[n])
    with JsonlFile(path) as file:
        assert records(file) == RECORDS
    assert path.read_bytes().count(b"\n") == len(RECORDS)


@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, 1_000), text=st.text(max_size=20))
def test_repair_keeps_exactly_the_complete_lines(
    at: int, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    rows = [{"id": n, "text": text} for n in range(4)]
    with JsonlFile(path) as file:
        for row in rows:
            file.append(row)
    data = path.read_bytes()[: at % (path.stat().st_size + 1)]
    path.write_bytes(data)
    with JsonlFile(path) as file:
        file.repair()
        file.append({"id": "after"})
        remaining = records(file)
    # A complete record without its newline counts as well.
    complete = [row for row in rows if _ends(rows, row) - 1 <= len(data)]
    assert remaining == [*complete, {"id": "after"}]
    assert path.read_bytes().count(b"\n") == len(remaining)


def _ends(rows: list[dict[str, object]], row: dict[str, object]) -> int:
    until = rows[: rows.index(row) + 1]
    return sum(len(json.dumps(r, ensure_ascii=False).encode()) + 1 for r in until)


def test_a_file_can_be_cut_at_the_end_of_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(WHOLE + b'{"id": 3, "te')
    with JsonlFile(path) as file:
        entries = list(file.entries())
        assert [(e.number, e.end) for e in entries] == [(1, 10), (2, 20)]
        file.cut(entries[0].end)
        file.append({"id": 9})
        assert records(file) == [{"id": 1}, {"id": 9}]


@pytest.mark.parametrize("text", [b"Dear diary", b"a,b\n1,2\n", b"{\n  1\n}\n", b"\n"])
def test_a_file_of_another_format_is_refused_and_not_changed(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "diary"
    path.write_bytes(text)
    with JsonlFile(path) as file, pytest.raises(DataError, match="line 1 is not valid JSON"):
        file.repair()
    assert path.read_bytes() == text


def test_a_file_is_locked_against_other_processes(tmp_path: Path) -> None:
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


def test_retain_replaces_the_file_and_keeps_the_lock(tmp_path: Path) -> None:
    path, link = tmp_path / "rows.jsonl", tmp_path / "link"
    path.write_bytes(WHOLE)
    link.symlink_to(path)
    (tmp_path / "rows.jsonl.part").write_bytes(b"left by a killed process")
    with JsonlFile(link) as file:
        file.retain(lambda record: record["id"] == 2)
        file.append({"id": 3})
        with pytest.raises(DataError, match="another job"), JsonlFile(path):
            pass
    assert path.read_bytes() == b'{"id": 2}\n{"id": 3}\n'
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "rows.jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("no-such-folder/rows", "No such file"), ("folder", "Is a directory")],
)
def test_an_unwritable_file_is_an_error(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(DataError, match=f"cannot be written: {message}"),
        JsonlFile(tmp_path / path),
    ):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error() -> None:
    with (
        JsonlFile(Path("/dev/full")) as file,
        pytest.raises(DataError, match="No space left on device"),
    ):
        file.append({"id": 1})
