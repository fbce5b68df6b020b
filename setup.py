"""Lists the packages for setuptools; all other metadata is in pyproject.toml.

`graphs/` and `nodes/` are at the root of the repository and are installed inside
`langgraph_arbitrage`. The symbolic links of these names inside the package are for type checkers
and editors. The build does not use them, so a source archive without links builds the same wheel.
"""

from setuptools import find_packages, setup

PACKAGE = "langgraph_arbitrage"
ROOT_FOLDERS = ("graphs", "nodes")

packages = set(find_packages(include=[PACKAGE, f"{PACKAGE}.*"]))
for folder in ROOT_FOLDERS:
    packages |= {f"{PACKAGE}.{name}" for name in find_packages(include=[folder, f"{folder}.*"])}

setup(
    packages=sorted(packages),
    package_dir={f"{PACKAGE}.{folder}": folder for folder in ROOT_FOLDERS},
)
