"""The settings of all jobs as data, in a file: help and completion need not import the jobs, and with them torch.

`make reference` writes reference.json from the jobs' dataclasses, which stay the one truth; a test compares the two.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from cyclesep.cli.jobs import JOBS, Job, import_object
from cyclesep.config import settings
from cyclesep.config.settings import Group, Setting
from cyclesep.storage.atomic_io import write_text

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """All that help has to say of one config class."""

    settings: tuple[Setting, ...]
    """In the order of the fields; defaults as JSON has them, so that a tuple is a list."""
    groups: tuple[Group, ...]
    """The same settings by the dataclass that they belong to."""


def job_reference(name: str, job: Job) -> Reference:
    """The reference of a job: out of the file, so that nothing of it is import_object; of one that is not there, its own."""
    return _read(_file()[name]) if name in _file() else reference_of(import_object(job.config))


def reference_of(config_class: type) -> Reference:
    """The reference of a config class itself."""
    return _read(_plain(config_class))


def reference_text() -> str:
    """What the file should hold: the references of all jobs, as JSON."""
    plain = {name: _plain(import_object(job.config)) for name, job in JOBS.items()}
    return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"


@functools.cache
def _file() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def _plain(config_class: type) -> dict[str, Any]:
    return {
        "groups": {group.prefix: group.sentence for group in settings.groups(config_class)},
        "settings": [_plain_setting(setting) for setting in settings.reference(config_class)],
    }


def _plain_setting(setting: Setting) -> dict[str, Any]:
    default = {} if setting.default is MISSING else {"default": to_jsonable_python(setting.default)}
    return {"name": setting.name, "type": setting.type, **default, "sentence": setting.sentence}


def _read(plain: Mapping[str, Any]) -> Reference:
    rows = tuple(Setting(**({"default": MISSING} | row)) for row in plain["settings"])
    groups = (
        Group(
            prefix=prefix,
            sentence=sentence,
            settings=tuple(row for row in rows if row.name.rpartition(".")[0] == prefix),
        )
        for prefix, sentence in plain["groups"].items()
    )
    return Reference(settings=rows, groups=tuple(groups))


if __name__ == "__main__":
    write_text(FILE, reference_text())
