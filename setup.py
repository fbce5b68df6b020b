"""Finds the packages; everything else is in pyproject.toml.

`graphs/` and `nodes/` stand at the root of the repository and are installed inside
`langgraph_arbitrage`. The links of those names inside it serve type checkers and editors; nothing
here needs them, so a source archive without links builds the same wheel.
"""

from setuptools import find_packages, setup

PACKAGE = "langgraph_arbitrage"
OUTSIDE = ("graphs", "nodes")

packages = set(find_packages(include=[PACKAGE, f"{PACKAGE}.*"]))
for folder in OUTSIDE:
    packages |= {f"{PACKAGE}.{name}" for name in find_packages(include=[folder, f"{folder}.*"])}

setup(
    packages=sorted(packages),
    package_dir={f"{PACKAGE}.{folder}": folder for folder in OUTSIDE},
)
