"""Addresses on which a process and its descendants listen, read from /proc (Linux)."""

import socket
from pathlib import Path

from cluster.local.processes import descendants

_LISTEN = "0A"


def listening(pid: int) -> set[str]:
    """Return the local addresses on which `pid` and its descendants listen by TCP, such as 127.0.0.1 or ::."""
    inodes = _listening_inodes()
    return {inodes[inode] for process in (pid, *descendants(pid)) for inode in _sockets(process) if inode in inodes}


def _listening_inodes() -> dict[str, str]:
    """Return the address of each listening TCP socket of this network namespace, by inode."""
    found = {}
    for name, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path("/proc/net") / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTEN:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                # Words of four bytes in the machine's byte order.
                packed = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
                found[fields[9]] = socket.inet_ntop(kind, packed).removeprefix("::ffff:")
    return found


def _sockets(pid: int) -> set[str]:
    found = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = str(link.readlink())
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        # The process has ended.
        pass
    return found
