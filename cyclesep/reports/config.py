"""Configuration of the job `report`."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Regenerate report.html of evaluations and training runs."""

    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    """Folders of evaluations or training runs, local or s3://bucket/prefix. report.html is written into each."""
