"""Where stems go: a template of a path below the output folder, which no name can lead out of."""

import string
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from cyclesep.errors import ConfigError

FIELDS = ("track", "stem", "ext")


def refuse_bad_template(template: str) -> None:
    """Raise ConfigError unless `template` holds {stem} and no other fields than those of FIELDS, plainly."""
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as problem:
        raise ConfigError(
            f"name: {template!r} is not a template ({problem}); write it like {{track}}/{{stem}}.{{ext}}"
        ) from None
    fields = {name for _, name, _, _ in parts}
    if "stem" not in fields or not fields <= set(FIELDS) or any(spec or conversion for *_, spec, conversion in parts):
        raise ConfigError(
            f"name: {template!r} must hold {{stem}}, may hold {{track}} and {{ext}}, and nothing else in braces"
        )
    _refuse_escape(template, template)


def stem_paths(output: Path, template: str, *, track: str, stems: Iterable[str], ext: str) -> dict[str, Path]:
    """The path of each stem of a track; raises ConfigError for a name that would lead out of `output`."""
    template = template if "{ext}" in template else template + ".{ext}"
    names = {stem: template.format(track=track, stem=stem, ext=ext) for stem in stems}
    for name in names.values():
        _refuse_escape(name, template)
    return {stem: output / name for stem, name in names.items()}


def refuse_collisions(paths_of: Mapping[Path, Mapping[str, Path]], template: str) -> None:
    """Raise ConfigError if two inputs would write the same file."""
    owners: dict[Path, Path] = {}
    for source, paths in paths_of.items():
        for path in paths.values():
            first = owners.setdefault(path, source)
            if first != source:
                raise ConfigError(
                    f"name: with {template!r} both {first} and {source} would become {path}; put {{track}} into it"
                )


def _refuse_escape(name: str, template: str) -> None:
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ConfigError(
            f"name: {template!r} gives {name!r}, which leads out of the output folder; without '..' and a first '/' it "
            f"would not: change name, or rename the file"
        )
