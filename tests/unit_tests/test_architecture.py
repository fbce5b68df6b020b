"""The import layers of the package, read from its source."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import langgraph_arbitrage

PACKAGE = "langgraph_arbitrage"
ROOT = Path(langgraph_arbitrage.__file__).parent

# Bottom first. A module imports from its own layer and from those below it. The longest name wins.
LAYERS = (
    ("errors", "utils", "embedded", "data"),
    ("models", "decoding", "remote", "engine"),
    ("tools", "prompts"),
    ("policies", "scorers"),
    ("config", "state", "events"),
    ("loop",),
    ("persistence",),
    ("nodes",),
    ("graphs.arbitrage",),
    ("chat_model",),
    ("graphs",),
    ("runner", "batch", "serve", "evaluation", "performance", "training", "embedded.make"),
    ("cli",),
)
LOOSE = {"__init__", "errors", "events", "runner", "state"}


def modules() -> dict[str, Path]:
    """Source file by dotted name, without the package's own."""
    found = {}
    for file in sorted(_walk(ROOT)):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Python files below a folder; nodes/ and graphs/ are links in a checkout."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.suffix == ".py":
            yield entry


def imports(name: str, file: Path, *, lazy: bool) -> set[str]:
    """Modules of the package that a module imports; `lazy` includes those inside functions."""
    known, found = modules(), set()

    def visit(nodes: list[ast.stmt] | list[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                visit(list(node.orelse))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
                continue
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                base = (node.module or "").removeprefix(PACKAGE).lstrip(".")
                for alias in node.names:
                    full = f"{base}.{alias.name}".lstrip(".")
                    found.add(full if full in known else base)
            else:
                visit(list(ast.iter_child_nodes(node)))

    visit(ast.parse(file.read_text(encoding="utf-8")).body)
    return found - {name, ""}


def layer(name: str) -> int:
    """Index of the layer that a module belongs to."""
    matches = [
        (len(prefix), index)
        for index, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    assert matches, f"{name} belongs to no layer: add its folder to LAYERS"
    return max(matches)[1]


def test_imports_point_downwards() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, file in modules().items()
        if name not in ("", "__init__")
        for other in sorted(imports(name, file, lazy=True))
        if layer(other) > layer(name)
    ]
    assert upwards == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: imports(name, file, lazy=False) for name, file in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_the_engine_knows_neither_langchain_nor_langgraph() -> None:
    for name, file in modules().items():
        if name.split(".")[0] in ("engine", "decoding", "models", "remote"):
            source = file.read_text(encoding="utf-8")
            assert "langchain" not in source.replace("langgraph_arbitrage", ""), name
            assert "import langgraph\n" not in source, name
            assert "from langgraph." not in source, name


def test_few_modules_lie_outside_of_a_folder() -> None:
    assert {file.stem for file in ROOT.glob("*.py")} == LOOSE
