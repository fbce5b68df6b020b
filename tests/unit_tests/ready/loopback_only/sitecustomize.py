"""On `PYTHONPATH`, it keeps a Python program on loopback, whatever the machine's network is.

The file that `LOOPBACK_ONLY` names gets a line `guarded` for each process, and one for each name or
address beyond loopback that was asked for. uvloop connects unseen by Python: it is hidden.
"""

import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

RECORD = Path(os.environ["LOOPBACK_ONLY"])


def note(line: str) -> None:
    with RECORD.open("a") as file:
        file.write(line + "\n")


def beyond(host: Any) -> bool:
    if host in (None, "", "localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True  # a name, which a server elsewhere would have to tell


def guard(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        host = address[0] if isinstance(address, tuple) else None  # a Unix socket's is a path
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if beyond(host):
        note(f"{event} {host}")
        raise OSError(f"{host} is beyond loopback")


sys.modules["uvloop"] = None  # type: ignore[assignment]
sys.addaudithook(guard)
note("guarded")
