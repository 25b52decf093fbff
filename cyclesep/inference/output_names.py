"""Paths of stems: a template of a path below the output folder."""

import string
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from cyclesep.errors import ConfigError

FIELDS = ("track", "stem", "ext")


def check_template(template: str) -> None:
    """Raise ConfigError unless `template` contains {stem} and no fields other than FIELDS, without conversions."""
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as problem:
        raise ConfigError(
            f"filename_template: invalid template {template!r} ({problem}); use the form {{track}}/{{stem}}.{{ext}}"
        ) from None
    fields = {name for _, name, _, _ in parts}
    if "stem" not in fields or not fields <= set(FIELDS) or any(spec or conversion for *_, spec, conversion in parts):
        raise ConfigError(
            f"filename_template: invalid template {template!r}; it must contain {{stem}}, and may contain {{track}} "
            "and {ext}, but no other fields"
        )
    _check_inside_output(template, template)


def stem_paths(output: Path, template: str, *, track: str, stems: Iterable[str], ext: str) -> dict[str, Path]:
    """Return the path of each stem of a track; raise ConfigError for a path outside `output`."""
    template = template if "{ext}" in template else template + ".{ext}"
    names = {stem: template.format(track=track, stem=stem, ext=ext) for stem in stems}
    for name in names.values():
        _check_inside_output(name, template)
    return {stem: output / name for stem, name in names.items()}


def check_collisions(paths_of: Mapping[Path, Mapping[str, Path]], template: str) -> None:
    """Raise ConfigError if the stems of two inputs have the same path."""
    owners: dict[Path, Path] = {}
    for source, paths in paths_of.items():
        for path in paths.values():
            first = owners.setdefault(path, source)
            if first != source:
                raise ConfigError(
                    f"filename_template: with {template!r}, {first} and {source} have the same output {path}; "
                    "add {track} to it"
                )


def _check_inside_output(name: str, template: str) -> None:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ConfigError(
            f"filename_template: {template!r} gives {name!r}, which is outside the output folder; remove '..' or the "
            "leading '/', or rename the file"
        )
