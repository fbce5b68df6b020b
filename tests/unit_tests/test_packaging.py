"""Wheel, source archive and checkout contain the same modules under the same names."""

import ast
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "langgraph_arbitrage"
ROOT_FOLDERS = ("graphs", "nodes")  # installed inside the package, see setup.py
DATA = (".jinja", ".json", ".jsonl", ".md", ".safetensors", ".txt")
PAGE = (".css", ".html", ".js")
SOURCES = (PACKAGE, *ROOT_FOLDERS, "tests", "examples", "benchmarks")


def files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, except caches and symbolic links."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from files(path)
        else:
            yield path


def belongs_in_wheel(path: str) -> bool:
    data = path.startswith(f"{PACKAGE}/embedded/") and path.endswith(DATA)
    data |= path.startswith(f"{PACKAGE}/evaluation/page/") and path.endswith(PAGE)
    return path.endswith(".py") or path == f"{PACKAGE}/py.typed" or data


def expected_in_wheel(checkout: Path) -> set[str]:
    """Names in the wheel of all modules and data files of a checkout."""
    expected = {path.relative_to(checkout).as_posix() for path in files(checkout / PACKAGE)}
    for folder in ROOT_FOLDERS:
        paths = files(checkout / folder)
        expected |= {f"{PACKAGE}/{path.relative_to(checkout).as_posix()}" for path in paths}
    return {path for path in expected if belongs_in_wheel(path)}


def build(source: Path, out: Path, *options: str) -> None:
    """Build with the installed setuptools, which needs no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def contents(wheel: Path) -> list[tuple[str, int]]:
    """Name and checksum of each file, except RECORD, which depends on the build order."""
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
    return sorted((i.filename, i.CRC) for i in infos if not i.filename.endswith("/RECORD"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the build's sources, because builds write to their source folder."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (PACKAGE, *ROOT_FOLDERS):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build(checkout, out, "--wheel")
    return next(out.glob("*.whl"))


def test_the_wheel_contains_every_module_and_data_file_once(checkout: Path, wheel: Path) -> None:
    names = [name for name, _ in contents(wheel) if name.startswith(f"{PACKAGE}/")]
    assert len(names) == len(set(names))
    assert set(names) == expected_in_wheel(checkout)


def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name, _ in contents(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {PACKAGE}


def test_the_wheel_declares_the_command_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
        commands = archive.read(text["entry_points.txt"]).decode()
        metadata = archive.read(text["METADATA"]).decode()
    assert "arbitrage = langgraph_arbitrage.cli:main" in commands
    assert "License-Expression: MIT" in metadata
    assert "LICENSE" in text


def test_the_source_archive_builds_the_same_wheel(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    build(checkout, tmp_path / "sdist", "--sdist")
    with tarfile.open(next((tmp_path / "sdist").glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    build(next(tmp_path.glob("langgraph_arbitrage-*")), tmp_path / "again", "--wheel")
    assert contents(next((tmp_path / "again").glob("*.whl"))) == contents(wheel)


def test_a_checkout_without_links_builds_the_same_wheel(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns("build"))
    for folder in ROOT_FOLDERS:
        (copy / PACKAGE / folder).unlink()
    build(copy, tmp_path / "again", "--wheel")
    assert contents(next((tmp_path / "again").glob("*.whl"))) == contents(wheel)


@pytest.mark.parametrize("folder", ROOT_FOLDERS)
def test_links_are_relative_and_point_to_the_root_folders(folder: str) -> None:
    link = ROOT / PACKAGE / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder


@pytest.mark.parametrize("folder", ROOT_FOLDERS)
def test_the_package_name_resolves_to_the_root_folder(folder: str) -> None:
    spec = importlib.util.find_spec(f"{PACKAGE}.{folder}")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / folder / "__init__.py"


def short_imports(path: Path) -> Iterator[int]:
    """Lines that import `graphs` or `nodes` by the short name, which loads a second copy."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                modules = [module]
            case _:
                continue
        if any(module.split(".")[0] in ROOT_FOLDERS for module in modules):
            yield node.lineno


def test_no_module_is_imported_by_its_short_name() -> None:
    folders = [ROOT / name for name in SOURCES if (ROOT / name).is_dir()]
    modules = [path for folder in folders for path in files(folder) if path.suffix == ".py"]
    imports = [f"{path.relative_to(ROOT)}:{n}" for path in modules for n in short_imports(path)]
    assert not imports
