"""The addresses on which a process and all that descend from it listen, read from /proc (Linux)."""

import socket
from pathlib import Path

_LISTEN = "0A"


def listening(pid: int) -> set[str]:
    """Local addresses of the TCP sockets on which `pid` and its descendants listen, as 127.0.0.1 or ::."""
    inodes = _listening_inodes()
    family = {pid}
    parents = {int(entry.name): _parent(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {inodes[inode] for member in family for inode in _sockets(member) if inode in inodes}


def _listening_inodes() -> dict[str, str]:
    """Address by the inode of each listening TCP socket of this network name space."""
    found = {}
    for name, kind in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        table = Path("/proc/net") / name
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == _LISTEN:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                # Words of four bytes, each in the order of this machine.
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
        # It has ended meanwhile.
        pass
    return found


def _parent(entry: Path) -> int:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1
