"""A local S3 server behind a proxy that injects faults."""

import uuid
from pathlib import Path

from cluster.local.s3_server import LocalS3, S3Server
from tests.support.fault_proxy import FaultProxy


class S3(LocalS3):
    """A running server behind its proxy, and boto3's configuration files for it."""

    def __init__(self, server: S3Server, aws_folder: Path) -> None:
        self.proxy = FaultProxy(server.port)
        self.is_changed = False
        super().__init__(server, aws_folder)

    @property
    def port(self) -> int:
        return self.proxy.port

    def configure(self, *, access_key: str = "", secret_key: str = "", port: int = 0) -> None:
        super().configure(access_key=access_key, secret_key=secret_key, port=port)
        self.is_changed = True

    def new_prefix(self) -> str:
        """Return an unused prefix."""
        return f"s3://tests/{uuid.uuid4().hex[:12]}"
