"""A PostgreSQL cluster in a temporary folder, reached by a socket file, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["binaries", "cluster"]


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; None where no server is installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return installed[-1].parent if installed else None


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Start a cluster; its address.

    The server refuses to run as root, so that root starts it as another user.
    """
    options: dict[str, Any] = {"user": _other_user()} if os.geteuid() == 0 else {}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    # Not in pytest's folder: that one is closed to other users, and its name is too long.
    home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if options:
        shutil.chown(home, options["user"])
    data, log = home / "data", home / "log"

    def call(name: str, *arguments: str) -> None:
        command = [str(folder / name), "-D", str(data), *arguments]
        done = subprocess.run(command, check=False, cwd=home, **quiet, **options)
        told = log.read_text() if log.exists() else ""
        assert done.returncode == 0, done.stderr.decode() + told

    try:
        call("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        server = f"-c listen_addresses='' -c unix_socket_directories='{home}' -c fsync=off"
        call("pg_ctl", "-l", str(log), "-o", server, "-w", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={home}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)
