"""A local S3 server: OpenStack Swift with its S3 middleware, as four processes on loopback."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3.session

from cluster.local.ports import free_ports
from cyclesep.storage import s3_client

BIN = Path(sys.executable).parent
START_SECONDS = 60.0

_SWIFT = """
[swift-hash]
swift_hash_path_suffix = local
swift_hash_path_prefix = local
[storage-policy:0]
name = gold
default = yes
"""

_STORAGE = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {conf}
devices = {devices}
mount_check = false
user = {user}
log_level = WARNING
disable_fallocate = true
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

# No memcache listens at this address: Swift works without one, and no response is cached.
_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {conf}
user = {user}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
conn_timeout = 30
client_timeout = 60
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
dns_compliant_bucket_names = yes
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user_name} = {secret} .admin
user_{account}_other = {secret}
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
rate_limit_after_segment = 10000
[filter:dlo]
use = egg:swift#dlo
"""

# Run in its own process because Swift installs its own scheduler (eventlet).
_RINGS = """
import json, sys
from swift.common.ring import RingBuilder
for kind, port in json.loads(sys.argv[2]).items():
    builder = RingBuilder(6, 1, 0)
    device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0}
    builder.add_dev({**device, "replication_ip": "127.0.0.1", "replication_port": port, "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""


@dataclass(frozen=True)
class S3Server:
    """Port and credentials of the server."""

    port: int
    access_key: str
    secret_key: str
    other_key: str
    """Access key of a user without any permissions, with the same secret."""


class LocalS3:
    """A running server, and boto3's configuration files for it."""

    def __init__(self, server: S3Server, aws_folder: Path) -> None:
        self.server = server
        self._folder = aws_folder
        self._client: Any = None

    @property
    def port(self) -> int:
        """Port to which clients connect."""
        return self.server.port

    def configure(self, *, access_key: str = "", secret_key: str = "", port: int = 0) -> None:
        """Write endpoint and credentials to boto3's configuration files, and reset this process's client."""
        key, secret = access_key or self.server.access_key, secret_key or self.server.secret_key
        credentials = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        endpoint = f"http://127.0.0.1:{port or self.port}"
        (self._folder / "credentials").write_text(credentials)
        (self._folder / "config").write_text(
            f"[default]\nregion = us-east-1\nendpoint_url = {endpoint}\nmax_attempts = 4\n"
        )
        s3_client.reset()

    def client(self) -> Any:
        """Return a separate boto3 client, always with the right credentials."""
        if self._client is None:
            self._client = boto3.session.Session().client("s3")
        return self._client


class SwiftServer:
    """A context manager that runs the server, and deletes its data at the end."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder = _folder_with_attributes()

    def __enter__(self) -> S3Server:
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> S3Server:
        conf, devices = self._folder / "conf", self._folder / "node"
        conf.mkdir()
        (devices / "d1").mkdir(parents=True)
        (conf / "swift.conf").write_text(_SWIFT)
        ports = dict(zip(("account", "container", "object", "proxy"), free_ports(4), strict=True))
        user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        account, user_name, secret = "test", "tester", secrets.token_hex(16)
        for kind in ("account", "container", "object"):
            text = _STORAGE.format(kind=kind, port=ports[kind], conf=conf, devices=devices, user=user)
            (conf / f"{kind}-server.conf").write_text(text)
        _build_rings(conf, {kind: ports[kind] for kind in ("account", "container", "object")})
        names = {"account": account, "user_name": user_name, "secret": secret}
        (conf / "proxy-server.conf").write_text(_PROXY.format(port=ports["proxy"], conf=conf, user=user, **names))
        for kind in ports:
            with (self._folder / f"{kind}.log").open("wb") as log:
                command = [str(BIN / f"swift-{kind}-server"), str(conf / f"{kind}-server.conf")]
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        for port in ports.values():
            self._wait_for(port)
        return S3Server(
            port=ports["proxy"],
            access_key=f"{account}:{user_name}",
            secret_key=secret,
            other_key=f"{account}:other",
        )

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=30).close()
                return
            except urllib.error.HTTPError:
                # The storage servers have no health check and answer with an error.
                return
            except OSError as error:
                ended = [process.args for process in self._processes if process.poll() is not None]
                if ended or time.monotonic() > deadline:
                    logs = "".join(path.read_text()[-2000:] for path in self._folder.glob("*.log"))
                    raise RuntimeError(f"Swift did not start; ended: {ended}; {logs}") from error
                time.sleep(0.1)


def _folder_with_attributes() -> Path:
    """Create a temporary folder on a file system with extended attributes, which Swift requires."""
    for parent in (None, "/var/tmp", "/dev/shm", Path.home()):
        folder = Path(tempfile.mkdtemp(prefix="s3-", dir=parent))
        try:
            os.setxattr(folder, "user.swift", b"x" * 1024)
            return folder
        except OSError:
            folder.rmdir()
    raise RuntimeError(
        "no temporary folder supports extended attributes (user.*), which Swift needs; set TMPDIR to one that does"
    )


def _build_rings(conf: Path, ports: dict[str, int]) -> None:
    """Write the tables of data locations: 64 partitions, one replica, one device."""
    done = subprocess.run([sys.executable, "-c", _RINGS, conf, json.dumps(ports)], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"building the rings failed: {done.stderr.decode()}")
