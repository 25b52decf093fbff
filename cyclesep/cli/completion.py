"""`cyclesep completion SHELL`: jobs, options, settings and choices by the tab key, for bash, zsh and fish.

A static script made from the dataclasses: a completion that asked this program would import torch at each key, and the
libraries for it read argparse's options, where this command line has `name=value` words.
"""

import difflib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from benchmarks.command import BENCHMARKS
from cyclesep.cli.main import JOBS, TOOLS, Job, fail
from cyclesep.cli.reference import job_reference

_TYPES = {"str", "int", "float", "bool"}
_CHOICE = re.compile(r"[a-z0-9_]+|[A-Z0-9-]+|uSDR")

USAGE = """usage: cyclesep completion bash|zsh|fish

Print a script that completes jobs, settings and choices.

  bash   cyclesep completion bash > ~/.local/share/bash-completion/completions/cyclesep
  zsh    cyclesep completion zsh > "${fpath[1]}/_cyclesep"
  fish   cyclesep completion fish > ~/.config/fish/completions/cyclesep.fish

or for this shell alone: source <(cyclesep completion bash)"""


@dataclass(frozen=True, kw_only=True)
class Word:
    """Something to type after a job: a setting up to its `=`, or an option; with what may follow, if that is known."""

    text: str
    sentence: str
    choices: tuple[str, ...] = ()

    @property
    def whole(self) -> tuple[str, ...]:
        """All that may be typed: `name=choice` for each choice, or the word itself."""
        return tuple(self.text + choice for choice in self.choices) or (self.text,)


def run_completion(words: Sequence[str]) -> NoReturn:
    """Print the script for the shell that the one word names; exit with the status."""
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    if len(words) > 1 or words[0] not in SHELLS:
        near = difflib.get_close_matches(words[0], SHELLS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(SHELLS)}"
        fail("cyclesep completion", f"there is no completion for {' '.join(words)!r}; {remedy}")
    print(SHELLS[words[0]](sentences(), vocabulary()), end="")
    sys.exit(0)


def sentences() -> dict[str, str]:
    """What the first word may be, and what it does."""
    return {name: chosen.sentence for table in (JOBS, TOOLS) for name, chosen in table.items()}


def vocabulary() -> dict[str, list[Word]]:
    """What may follow each first word."""
    words = {name: job_words(name, job) for name, job in JOBS.items()}
    words["benchmark"] = [Word(text=name, sentence=job.sentence) for name, job in BENCHMARKS.items()]
    words["config"] = [Word(text=name, sentence=job.sentence) for name, job in JOBS.items()]
    words["config"].append(Word(text="--markdown", sentence="a table instead of YAML"))
    words["completion"] = [Word(text=shell, sentence="") for shell in SHELLS]
    return words


def job_words(name: str, job: Job) -> list[Word]:
    """The settings and options of a job."""
    settings = job_reference(name, job).settings
    choices = {f"{setting.name}=": _choices(setting.type) for setting in settings}
    words = [
        Word(text=f"{setting.name}=", sentence=setting.sentence, choices=choices[f"{setting.name}="])
        for setting in settings
    ]
    for flag in job.flags:
        given = choices.get(flag.settings[0].removesuffix("{}"), ()) if flag.value else ()
        words.append(Word(text=f"{flag.name}=" if given else flag.name, sentence=flag.sentence, choices=given))
    words += [Word(text="--json", sentence="write the rows of all tables")] if job.gives_tables else []
    return [
        *words,
        Word(text="--help", sentence="what the job does, and its settings"),
        Word(text="--print-config", sentence="print the resolved settings"),
        Word(text="--debug", sentence="show the traceback of an error"),
    ]


def bash_script(jobs: dict[str, str], words: dict[str, list[Word]]) -> str:
    """A completion function for bash; it does without the bash-completion package."""
    cases = "\n".join(
        f"        {name}) words={shlex.quote(' '.join(text for word in rows for text in word.whole))} ;;"
        for name, rows in words.items()
    )
    return f"""# bash completion of cyclesep, printed by `cyclesep completion bash`
_cyclesep() {{
    # bash breaks words at '=' and ':'; the line itself tells where they begin.
    local line=${{COMP_LINE:0:COMP_POINT}} words word before match
    word=${{line##*[[:space:]]}}
    set -- $line
    if [[ $# -lt 2 || ( $# -eq 2 && -n $word ) ]]; then
        words={shlex.quote(" ".join([*jobs, "--help", "--version"]))}
    else
        case $2 in
{cases}
        esac
    fi
    COMPREPLY=()
    before=${{word%"${{word##*[=:]}}"}}
    while IFS= read -r match; do
        [[ -n $match ]] && COMPREPLY+=("${{match#"$before"}}")
    done < <(compgen -W "$words" -- "$word")
    if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]]; then
        compopt -o nospace 2> /dev/null
    fi
}}
complete -o default -F _cyclesep cyclesep
"""


def zsh_script(jobs: dict[str, str], words: dict[str, list[Word]]) -> str:
    """A completion function for zsh, with a sentence beside each word."""
    rows_of = {
        name: _zsh_rows((text, word.sentence) for word in rows for text in word.whole) for name, rows in words.items()
    }
    cases = "\n".join(f"        {name}) rows=(\n{rows}\n        ) ;;" for name, rows in rows_of.items())
    return f"""#compdef cyclesep
# zsh completion of cyclesep, printed by `cyclesep completion zsh`
_cyclesep() {{
    local -a rows open closed
    if (( CURRENT == 2 )); then
        rows=(
{_zsh_rows(jobs.items())}
        )
        _describe job rows
        return
    fi
    case $words[2] in
{cases}
    esac
    # A setting goes on after its '='; everything else is a word of its own.
    setopt localoptions extendedglob
    open=(${{(M)rows:#[^:]##=:*}})
    closed=(${{rows:#[^:]##=:*}})
    _describe setting open -S '' -- closed
    _files
}}
if [[ $funcstack[1] == _cyclesep ]]; then _cyclesep "$@"; else compdef _cyclesep cyclesep; fi
"""


def fish_script(jobs: dict[str, str], words: dict[str, list[Word]]) -> str:
    """Completions for fish, with a sentence beside each word."""
    lines = ["# fish completion of cyclesep, printed by `cyclesep completion fish`"]
    for name, sentence in jobs.items():
        lines.append(f"complete -c cyclesep -n __fish_use_subcommand -f -a {_fish(name)} -d {_fish(sentence)}")
    for name, rows in words.items():
        seen = f"complete -c cyclesep -n '__fish_seen_subcommand_from {name}'"
        for word in rows:
            if word.text.startswith("--"):
                values = f" -x -a {_fish(' '.join(word.choices))}" if word.choices else ""
                lines.append(f"{seen} -l {word.text[2:].removesuffix('=')}{values} -d {_fish(word.sentence)}")
            else:
                lines.append(f"{seen} -a {_fish(' '.join(word.whole))} -d {_fish(word.sentence)}")
    return "\n".join(lines) + "\n"


SHELLS: dict[str, Callable[[dict[str, str], dict[str, list[Word]]], str]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}


def _choices(kind: str) -> tuple[str, ...]:
    """What a setting of this type may be, where that is a short list; of a list, each alone."""
    is_list = kind.startswith("list of ")
    names = [name for name in kind.removeprefix("list of ").split(" | ") if name != "none"]
    if names == ["bool"]:
        return ("true", "false")
    # A choice may be called like a type: "float | pcm24 | pcm16".
    if set(names) <= _TYPES or not all(_CHOICE.fullmatch(name) for name in names):
        return ()
    return tuple(f"[{name}]" if is_list else name for name in names)


def _zsh_rows(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"            {shlex.quote(_zsh(text) + ':' + _zsh(told))}" for text, told in rows)


def _zsh(text: str) -> str:
    return text.replace(":", "\\:")


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
