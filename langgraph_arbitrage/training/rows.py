"""Rows: what both models wrote from one prefix, and what it was worth. Files that resume."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, cast

from langgraph_arbitrage.data.jsonl import Entry, JsonlFile
from langgraph_arbitrage.errors import DataError
from langgraph_arbitrage.training.questions import Question, question_id

__all__ = ["Origin", "Row", "RowFile", "one_pair", "read_rows", "read_verdicts"]

NEEDED = (
    *("question", "history", "tags", "z_d", "z_t", "s_d", "s_t", "delta", "y"),
    *("draft", "target"),
)
"""Columns without which nothing can be learned from a row."""


class Origin(TypedDict):
    """Where rows come from: the same for all of a collection."""

    draft: str
    target: str
    prm: str
    seed: int
    """Seed of the collection."""
    samples: int
    """Steps of the target that `s_t` is the mean of."""
    margin: float
    """Advantage above which the target's step counts as better."""
    follow: str
    """Whose step a trajectory goes on with: `better`, `draft`, or a router's name."""


class Row(Origin):
    """One prefix x with the step of each model from it."""

    question: str
    history: list[str]
    """Texts of the steps so far; with the question, the prefix x."""
    tags: list[int]
    """Who wrote each of them: 0 the draft, 1 the target, as in the paper's `Model 0: `."""
    z_d: str
    """The draft's step."""
    z_t: str
    """The target's step; the first one, where several were sampled."""
    s_d: float
    """The PRM's score of the draft's step, in [0, 1]."""
    s_t: float
    """The PRM's score of the target's step, in [0, 1]; the mean, where several were sampled."""
    delta: float
    """The advantage Δ = s_t − s_d."""
    y: int
    """The router's label: 1 iff Δ > margin."""
    taken: int
    """Whose step the trajectory went on with: 0 or 1."""
    rows: int
    """How many rows the question has, so that a torn one is seen."""


class RowFile:
    """Takes the rows of one question after another, and knows which questions are done.

    Rows are appended as JSON lines to a `Journal`, which no other collection can write to
    meanwhile. Where the file is to be Parquet,
    they are gathered in `NAME.parquet.jsonl` and turned into Parquet at the end.

    What a kill left behind is repaired when the file is opened: a torn last line, and the rows of
    a question that is not whole.

    Args:
        path: `.jsonl` or `.parquet`.
        origin: What the rows have in common; those that are there must have it too.

    Raises:
        DataError: The file holds something else, or another collection (on entering).
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        if path.suffix not in (".jsonl", ".parquet"):
            raise DataError(
                f"rows are written as .jsonl or .parquet, not as {path.suffix or path.name!r}"
            )
        if path.suffix == ".parquet":
            _need_arrow()
        self.path = path
        self.origin = origin
        self.journal = path if path.suffix == ".jsonl" else path.with_name(path.name + ".jsonl")
        self.done: set[str] = set()
        """Hashes of the questions that are there."""

    def __enter__(self) -> Self:
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        if self.journal != self.path and not self.journal.exists() and self.path.exists():
            lines = (_line(row) for row in _from_parquet(self.path))
            part = self.journal.with_name(self.journal.name + ".part")
            part.write_text("".join(lines), encoding="utf-8")
            part.replace(self.journal)
        with ExitStack() as stack:
            self._open = stack.enter_context(JsonlFile(self.journal))
            self._repair()
            self._stack = stack.pop_all()
        return self

    def _repair(self) -> None:
        """Cut off what is not whole, and see which questions are there."""
        counts: Counter[str] = Counter()
        whole = 0
        for entry in self._open.entries():
            row = self._checked(entry)
            identity = question_id(row["question"])
            counts[identity] += 1
            if counts[identity] >= row["rows"]:
                self.done.add(identity)
                whole = entry.end
        self._open.cut(whole)
        self._open.repair()

    def _checked(self, entry: Entry) -> Row:
        """A line's row, if it is one of this collection."""
        row: Row = entry.record
        try:
            found = {name: row[name] for name in self.origin}  # type: ignore[literal-required]
            _ = row["question"], row["rows"]
        except (KeyError, TypeError):
            raise DataError(
                f"{self.journal}, line {entry.number} is no row of a collection: give another file "
                "to write to"
            ) from None
        if other := [f"{k} {found[k]!r}" for k, v in self.origin.items() if found[k] != v]:
            wanted = [f"{k} {v!r}" for k, v in self.origin.items() if found[k] != v]
            raise DataError(
                f"{self.journal} holds rows with {', '.join(other)}, and this collection is one "
                f"with {', '.join(wanted)}: give another file to write to"
            )
        return row

    def __contains__(self, question: Question) -> bool:
        return question_id(question.text) in self.done

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of a question, all of them."""
        for row in rows:
            self._open.append(row)
        self.done.add(question_id(rows[0]["question"]))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is None and self.journal != self.path:
            _to_parquet(self.journal, self.path)
            self.journal.unlink()


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """The rows of finished collections, from JSONL or Parquet.

    Raises:
        DataError: A file is not there, or holds something else.
    """
    return cast("list[Row]", _table(paths, NEEDED, "`arbitrage collect` writes such rows"))


def read_verdicts(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Rows of (question, history, step, correct), or collected ones, for a PRM.

    Raises:
        DataError: A file is not there, or holds neither.
    """
    hint = "A PRM learns from rows of question, history, step, correct, or from collected ones"
    rows = _table(paths, ("question", "history"), hint)
    verdict, collected = {"step", "correct"}, {"z_d", "z_t", "s_d", "s_t"}
    for row in rows:
        if not (verdict <= row.keys() or collected <= row.keys()):
            raise DataError(f"a row has the columns {', '.join(row)}. {hint}")
    return rows


def one_pair(rows: Iterable[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """The pair that all rows come from; None where they do not say.

    Raises:
        DataError: They come from several pairs.
    """
    pairs = {(row.get("draft"), row.get("target")) for row in rows}
    if len(pairs) > 1:
        named = "; ".join(sorted(f"{draft} with {target}" for draft, target in pairs))
        raise DataError(
            f"the rows come from several pairs of models ({named}): a router knows one pair, so "
            "train one on the rows of each"
        )
    return pairs.pop() if pairs else (None, None)


def _table(paths: Iterable[Path], columns: Sequence[str], hint: str) -> list[dict[str, Any]]:
    """Records of JSONL or Parquet files that have these columns.

    A torn last line, as a kill leaves it, is left out.

    Raises:
        DataError: A file is not there, a column is missing, or there is not a single record.
    """
    found: list[dict[str, Any]] = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is no file; {hint}")
        records = _from_parquet(path) if path.suffix == ".parquet" else _from_jsonl(path)
        for record in records:
            if missing := [c for c in columns if c not in record]:
                raise DataError(
                    f"{path} has no column {', '.join(sorted(missing))}; its columns are "
                    f"{', '.join(record)}. {hint}"
                )
        if not records:
            raise DataError(f"{path} holds no rows; {hint}")
        found += records
    return found


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _from_jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError as error:
            if number == len(lines):
                break  # torn: without its line end
            raise DataError(f"{path}, line {number} is no JSON: {error}") from None
        if isinstance(record, dict):
            found.append(record)
        elif record is not None:
            raise DataError(f"{path}, line {number} is no JSON object")
    return found


def _need_arrow() -> None:
    if find_spec("pyarrow") is None:
        raise DataError(
            "Parquet needs pyarrow: pip install 'langgraph-arbitrage[train]', or use .jsonl"
        )


def _from_parquet(path: Path) -> list[dict[str, Any]]:
    _need_arrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} is no Parquet file: {error}") from None
    return records


def _to_parquet(journal: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(_from_jsonl(journal)), part)
    part.replace(path)
