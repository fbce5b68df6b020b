"""The table of LangChain's standard tests for ChatArbitrage and for ChatHuggingFace.

    python benchmarks/conformance.py [--peer FOLDER]

writes docs/conformance.md. langchain-huggingface asks for an older huggingface-hub than
transformers 5 brings here; `--peer` names a folder that it was installed into by itself:

    pip install --no-deps --target FOLDER langchain-huggingface

Without it the column of ChatHuggingFace is left as the file has it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import distributions, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "conformance.md"
OURS = ROOT / "tests" / "integration_tests" / "test_standard_suite.py"
THEIRS = ROOT / "benchmarks" / "peer_suite.py"


def outcomes(suite: Path, paths: list[str]) -> dict[str, str]:
    """Outcome of each test: passed, failed, skipped, expected failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        known = [p for p in (str(ROOT), *paths, os.environ.get("PYTHONPATH", "")) if p]
        command = f"-q -p no:cacheprovider --junit-xml={report} -m".split()
        subprocess.run(
            [sys.executable, "-m", "pytest", str(suite), *command, "slow or not slow"],
            cwd=ROOT,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(known), "HF_HUB_OFFLINE": "1"},
        )
        found = {}
        for case in ET.parse(report).iter("testcase"):
            name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
            found[name] = _outcome(case)
    return found


def _outcome(case: ET.Element) -> str:
    skipped = case.find("skipped")
    if skipped is not None:
        return "expected failure" if skipped.get("type") == "pytest.xfail" else "skipped"
    failed = case.find("failure") is not None or case.find("error") is not None
    return "**failed**" if failed else "passed"


def known_peer() -> dict[str, str]:
    """The column of ChatHuggingFace in the file that is there."""
    if not TABLE.exists():
        return {}
    rows = re.findall(r"^\| `(.+)` \| .* \| (.*) \|$", TABLE.read_text(encoding="utf-8"), re.M)
    return {name: outcome for name, outcome in rows if outcome != "not run"}


def summary(found: dict[str, str]) -> str:
    counts = {kind: list(found.values()).count(kind) for kind in dict.fromkeys(found.values())}
    return ", ".join(f"{n} {kind.strip('*')}" for kind, n in counts.items()) or "not run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="folder with langchain-huggingface")
    peer = parser.parse_args().peer
    ours = outcomes(OURS, [])
    theirs = outcomes(THEIRS, [peer]) if peer else known_peer()
    shown = [("langchain-core", None), ("langchain-tests", None), ("transformers", None)]
    if peer:
        installed = {d.metadata["Name"]: d.version for d in distributions(path=[peer])}
        shown.append(("langchain-huggingface", installed["langchain-huggingface"]))
    versions = ", ".join(f"{name} {found or version(name)}" for name, found in shown)
    lines = [
        "# Conformance",
        "",
        "LangChain's standard tests of chat models, on the embedded models (ChatHuggingFace: the",
        "embedded target in a local pipeline). Made by `python benchmarks/conformance.py`, which",
        "says how langchain-huggingface is had beside transformers 5.",
        "",
        f"With {versions}.",
        "",
        f"- ChatArbitrage: {summary(ours)}",
        f"- ChatHuggingFace: {summary(theirs)}",
        "",
        "| test | ChatArbitrage | ChatHuggingFace |",
        "|---|---|---|",
        *(f"| `{name}` | {ours[name]} | {theirs.get(name, 'not run')} |" for name in ours),
        "",
    ]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(lines), encoding="utf-8")
    print(f"{TABLE}: ChatArbitrage {summary(ours)}; ChatHuggingFace {summary(theirs)}")


if __name__ == "__main__":
    main()
