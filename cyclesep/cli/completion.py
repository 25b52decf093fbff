"""`cyclesep completion SHELL`: a script that completes jobs, options, settings and choices in bash, zsh or fish.

The script is static, made from the config dataclasses: calling this program at each key press would be slow, and
completion libraries read argparse's options, while this command line has `name=value` arguments.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from cyclesep.cli.error_handling import fail
from cyclesep.cli.help import COMMON_OPTIONS
from cyclesep.cli.job import Job
from cyclesep.cli.registry import JOBS, descriptions
from cyclesep.config.schema import list_settings
from cyclesep.config.suggestions import did_you_mean

_TYPES = {"str", "int", "float", "bool"}
_CHOICE = re.compile(r"[a-z0-9_]+|[A-Z0-9-]+|uSDR")

USAGE = """usage: cyclesep completion bash|zsh|fish

Print a script that completes jobs, settings and choices.

  bash   cyclesep completion bash > ~/.local/share/bash-completion/completions/cyclesep
  zsh    cyclesep completion zsh > "${fpath[1]}/_cyclesep"
  fish   cyclesep completion fish > ~/.config/fish/completions/cyclesep.fish

or for the current shell: source <(cyclesep completion bash)"""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An argument that can follow a job: an option, or a setting up to its `=`, and its choices if they are known."""

    text: str
    description: str
    choices: tuple[str, ...] = ()

    @property
    def expanded(self) -> tuple[str, ...]:
        """`name=choice` for each choice; without choices the text itself."""
        return tuple(self.text + choice for choice in self.choices) or (self.text,)


def run_completion(arguments: Sequence[str]) -> NoReturn:
    """Print the script for the shell named by the argument, and exit with the status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    if len(arguments) > 1 or arguments[0] not in SHELLS:
        shell = " ".join(arguments)
        fail("cyclesep completion", f"no completion for {shell!r}; {did_you_mean(shell, SHELLS)}")
    print(SHELLS[arguments[0]](descriptions(), list_candidates()), end="")
    sys.exit(0)


def list_candidates() -> dict[str, list[Candidate]]:
    """Return what can follow each job or tool."""
    candidates = {job.name: job_candidates(job) for job in JOBS.values()}
    candidates["config"] = [Candidate(text=job.name, description=job.description) for job in JOBS.values()]
    candidates["config"].append(Candidate(text="--markdown", description="a table instead of YAML"))
    candidates["completion"] = [Candidate(text=shell, description="") for shell in SHELLS]
    return candidates


def job_candidates(job: Job) -> list[Candidate]:
    """Return the settings and options of a job."""
    settings = [
        Candidate(text=f"{each.name}=", description=each.description, choices=_choices(each.type))
        for each in list_settings(job.config)
    ]
    choices_by_text = {each.text: each.choices for each in settings}
    options = []
    for flag in job.flags:
        choices = choices_by_text.get(flag.overrides[0].removesuffix("{}"), ()) if flag.value else ()
        text = f"{flag.name}=" if choices else flag.name
        options.append(Candidate(text=text, description=flag.description, choices=choices))
    common = [Candidate(text=option, description=description) for option, description in COMMON_OPTIONS.items()]
    return [*settings, *options, *common]


def bash_script(jobs: Mapping[str, str], candidates: Mapping[str, Sequence[Candidate]]) -> str:
    """Return a completion function for bash that does not need the bash-completion package."""
    cases = "\n".join(
        f"        {name}) words={shlex.quote(' '.join(text for each in group for text in each.expanded))} ;;"
        for name, group in candidates.items()
    )
    return f"""# bash completion of cyclesep, printed by `cyclesep completion bash`
_cyclesep() {{
    # bash breaks words at '=' and ':', so the words are taken from the line.
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


def zsh_script(jobs: Mapping[str, str], candidates: Mapping[str, Sequence[Candidate]]) -> str:
    """Return a completion function for zsh, which shows the description of each candidate."""
    rows_by_name = {
        name: _zsh_rows((text, each.description) for each in group for text in each.expanded)
        for name, group in candidates.items()
    }
    cases = "\n".join(f"        {name}) rows=(\n{rows}\n        ) ;;" for name, rows in rows_by_name.items())
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
    # No space is added after a setting's '='; after all other words one is.
    setopt localoptions extendedglob
    open=(${{(M)rows:#[^:]##=:*}})
    closed=(${{rows:#[^:]##=:*}})
    _describe setting open -S '' -- closed
    _files
}}
if [[ $funcstack[1] == _cyclesep ]]; then _cyclesep "$@"; else compdef _cyclesep cyclesep; fi
"""


def fish_script(jobs: Mapping[str, str], candidates: Mapping[str, Sequence[Candidate]]) -> str:
    """Return completions for fish, which shows the description of each candidate."""
    lines = ["# fish completion of cyclesep, printed by `cyclesep completion fish`"]
    for name, description in jobs.items():
        lines.append(f"complete -c cyclesep -n __fish_use_subcommand -f -a {_fish(name)} -d {_fish(description)}")
    for name, group in candidates.items():
        condition = f"complete -c cyclesep -n '__fish_seen_subcommand_from {name}'"
        for each in group:
            if each.text.startswith("--"):
                values = f" -x -a {_fish(' '.join(each.choices))}" if each.choices else ""
                option = each.text[2:].removesuffix("=")
                lines.append(f"{condition} -l {option}{values} -d {_fish(each.description)}")
            else:
                lines.append(f"{condition} -a {_fish(' '.join(each.expanded))} -d {_fish(each.description)}")
    return "\n".join(lines) + "\n"


SHELLS: dict[str, Callable[[Mapping[str, str], Mapping[str, Sequence[Candidate]]], str]] = {
    "bash": bash_script,
    "zsh": zsh_script,
    "fish": fish_script,
}


def _choices(kind: str) -> tuple[str, ...]:
    """Return the values that a setting of this type accepts, if they are few; for a list type, lists of one value."""
    is_list = kind.startswith("list of ")
    names = [name for name in kind.removeprefix("list of ").split(" | ") if name != "none"]
    if names == ["bool"]:
        return ("true", "false")
    # A choice may have the name of a type: "float | pcm24 | pcm16".
    if set(names) <= _TYPES or not all(_CHOICE.fullmatch(name) for name in names):
        return ()
    return tuple(f"[{name}]" if is_list else name for name in names)


def _zsh_rows(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"            {shlex.quote(_zsh(text) + ':' + _zsh(description))}" for text, description in rows)


def _zsh(text: str) -> str:
    return text.replace(":", "\\:")


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
