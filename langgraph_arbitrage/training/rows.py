"""Collected rows and their files. A row holds the scored steps of both models after one prefix."""

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

__all__ = ["Origin", "Row", "RowFile", "model_pair", "read_labelled_steps", "read_rows"]

REQUIRED_COLUMNS = (
    *("question", "history", "tags", "z_d", "z_t", "s_d", "s_t", "delta", "y"),
    *("draft", "target"),
)
"""Columns that every row needs to be used for training."""


class Origin(TypedDict):
    """The models and options of a collection, which are identical in all of its rows."""

    draft: str
    target: str
    prm: str
    seed: int
    """Seed of the collection."""
    samples: int
    """Number of target steps whose mean score is `s_t`."""
    margin: float
    """Advantage above which the target's step counts as better."""
    follow: str
    """How the trajectory continues: `better`, `draft`, or a router's name."""


class Row(Origin):
    """A prefix x and the step that each model wrote after it."""

    question: str
    history: list[str]
    """Texts of the steps so far. Question and history form the prefix x."""
    tags: list[int]
    """Writer of each step in `history`: 0 is the draft, 1 is the target, as in the paper's
    `Model 0: `."""
    z_d: str
    """The draft's step."""
    z_t: str
    """The target's step; the first one if several steps were sampled."""
    s_d: float
    """PRM score of the draft's step, in [0, 1]."""
    s_t: float
    """PRM score of the target's step, in [0, 1]; the mean score if several steps were sampled."""
    delta: float
    """The advantage Δ = s_t − s_d."""
    y: int
    """The router's label: 1 iff Δ > margin."""
    taken: int
    """Writer of the step that the trajectory appended: 0 or 1."""
    rows: int
    """Number of rows of this question. A question with fewer rows in the file is incomplete."""


class RowFile:
    """A file to which a collection appends the rows of one question at a time.

    Rows are appended to a `JsonlFile`, which locks the file against other collections. Rows of a
    Parquet file are first written to `NAME.parquet.jsonl` and converted on exit.

    Opening the file repairs the damage of an interrupted collection, so that the collection can
    resume: it removes an incomplete last line and the rows of an incomplete question.

    Args:
        path: A `.jsonl` or `.parquet` file.
        origin: Columns that all rows share. Existing rows must have the same values.

    Raises:
        DataError: The suffix of the file is not supported, or (on entering) the file holds rows of
            another collection or other content.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        if path.suffix not in (".jsonl", ".parquet"):
            raise DataError(
                f"rows are written as .jsonl or .parquet, not as {path.suffix or path.name!r}"
            )
        if path.suffix == ".parquet":
            _require_pyarrow()
        self.path = path
        self.origin = origin
        self.jsonl_path = path if path.suffix == ".jsonl" else path.with_name(path.name + ".jsonl")
        self.done: set[str] = set()
        """Ids of the questions in the file."""

    def __enter__(self) -> Self:
        self.jsonl_path.parent.mkdir(parents=True, exist_ok=True)
        if self.jsonl_path != self.path and not self.jsonl_path.exists() and self.path.exists():
            lines = (_line(row) for row in _read_parquet(self.path))
            part = self.jsonl_path.with_name(self.jsonl_path.name + ".part")
            part.write_text("".join(lines), encoding="utf-8")
            part.replace(self.jsonl_path)
        with ExitStack() as stack:
            self._file = stack.enter_context(JsonlFile(self.jsonl_path))
            self._repair()
            self._stack = stack.pop_all()
        return self

    def _repair(self) -> None:
        """Cut off incomplete questions and fill `done`."""
        counts: Counter[str] = Counter()
        end = 0
        for entry in self._file.entries():
            row = self._validated(entry)
            identity = question_id(row["question"])
            counts[identity] += 1
            if counts[identity] >= row["rows"]:
                self.done.add(identity)
                end = entry.end
        self._file.cut(end)
        self._file.repair()

    def _validated(self, entry: Entry) -> Row:
        """Return the row of a line.

        Raises:
            DataError: The line is not a row, or its origin differs.
        """
        row: Row = entry.record
        try:
            existing = {name: row[name] for name in self.origin}  # type: ignore[literal-required]
            _ = row["question"], row["rows"]
        except (KeyError, TypeError):
            raise DataError(
                f"{self.jsonl_path}, line {entry.number} is not a row of a collection: choose "
                "another output file"
            ) from None
        differing = [name for name, value in self.origin.items() if existing[name] != value]
        if differing:
            old = ", ".join(f"{name} {existing[name]!r}" for name in differing)
            new = ", ".join(f"{k} {v!r}" for k, v in self.origin.items() if k in differing)
            raise DataError(
                f"{self.jsonl_path} holds rows with {old}, but this collection has {new}: choose "
                "another output file"
            )
        return row

    def __contains__(self, question: Question) -> bool:
        return question_id(question.text) in self.done

    def append(self, rows: Sequence[Row]) -> None:
        """Append all rows of one question."""
        for row in rows:
            self._file.append(row)
        self.done.add(question_id(rows[0]["question"]))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is None and self.jsonl_path != self.path:
            _convert_to_parquet(self.jsonl_path, self.path)
            self.jsonl_path.unlink()


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Read the rows of finished collections from JSONL or Parquet files.

    Raises:
        DataError: A file does not exist, cannot be read, or lacks a column.
    """
    hint = "`arbitrage collect` writes files of rows"
    return cast("list[Row]", _read_records(paths, REQUIRED_COLUMNS, hint))


def read_labelled_steps(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read the training data of a PRM from JSONL or Parquet files.

    A row is either a labelled step (question, history, step, correct) or a collected row.

    Raises:
        DataError: A file does not exist, cannot be read, or has rows of another kind.
    """
    hint = "A PRM is trained on rows of question, history, step, correct, or on collected rows"
    rows = _read_records(paths, ("question", "history"), hint)
    labelled, collected = {"step", "correct"}, {"z_d", "z_t", "s_d", "s_t"}
    for row in rows:
        if not (labelled <= row.keys() or collected <= row.keys()):
            raise DataError(f"a row has the columns {', '.join(row)}. {hint}")
    return rows


def model_pair(rows: Iterable[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Return the draft and the target that all rows name; None if the rows do not name them.

    Raises:
        DataError: The rows come from several pairs.
    """
    pairs = {(row.get("draft"), row.get("target")) for row in rows}
    if len(pairs) > 1:
        names = "; ".join(sorted(f"{draft} with {target}" for draft, target in pairs))
        raise DataError(
            f"the rows come from several pairs of models ({names}): a router fits one pair, so "
            "train one router on the rows of each pair"
        )
    return pairs.pop() if pairs else (None, None)


def _read_records(paths: Iterable[Path], columns: Sequence[str], hint: str) -> list[dict[str, Any]]:
    """Read the records of JSONL or Parquet files. An incomplete last line is ignored.

    Args:
        paths: The files.
        columns: Columns that each record must have.
        hint: Text that error messages end with, to tell the user which files are expected.

    Raises:
        DataError: A file does not exist, cannot be read, has no records, or lacks a column.
    """
    all_records: list[dict[str, Any]] = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is not a file; {hint}")
        records = _read_parquet(path) if path.suffix == ".parquet" else _read_jsonl(path)
        for record in records:
            if missing := [c for c in columns if c not in record]:
                raise DataError(
                    f"{path} has no column {', '.join(sorted(missing))}; its columns are "
                    f"{', '.join(record)}. {hint}"
                )
        if not records:
            raise DataError(f"{path} holds no rows; {hint}")
        all_records += records
    return all_records


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError as error:
            if number == len(lines):
                break  # The last line has no newline, so its writing was interrupted.
            raise DataError(f"{path}, line {number} is not valid JSON: {error}") from None
        if isinstance(record, dict):
            records.append(record)
        elif record is not None:
            raise DataError(f"{path}, line {number} is not a JSON object")
    return records


def _require_pyarrow() -> None:
    if find_spec("pyarrow") is None:
        raise DataError(
            "Parquet needs pyarrow: pip install 'langgraph-arbitrage[train]', or use .jsonl"
        )


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    _require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a Parquet file: {error}") from None
    return records


def _convert_to_parquet(jsonl_path: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(_read_jsonl(jsonl_path)), part)
    part.replace(path)
