"""Errors of the command line: one line on stderr, an exit status, and with `--json` a JSON document on stdout."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from cyclesep.errors import CyclesepError


def run_with_error_handling(
    command: str, action: Callable[[], int], *, debug: bool = False, as_json: bool = False
) -> int:
    """Return the exit status of `action`; on an error print it as one line and return the error's status.

    `debug` also prints the traceback, `as_json` also prints `{"error": {"status": ..., "reason": ...}}` on stdout.
    """
    try:
        return action()
    except BrokenPipeError:
        return _discard_stdout()
    except KeyboardInterrupt:
        reason, status = "interrupted; finished work is kept, run the same command again to resume", 130
    except CyclesepError as problem:
        if debug:
            traceback.print_exc()
        reason, status = str(problem), problem.status
    except Exception as problem:
        if debug:
            traceback.print_exc()
        message = " ".join(str(problem).split())[:400]
        reason, status = f"unexpected {type(problem).__name__}: {message} (add --debug for the traceback)", 70
    return _print_error(command, reason, status, as_json=as_json)


def fail(command: str, message: str, *, as_json: bool = False) -> NoReturn:
    """Print a usage error as one line and exit with status 2."""
    sys.exit(_print_error(command, message, 2, as_json=as_json))


@contextmanager
def closed_stdout_allowed() -> Iterator[None]:
    """Exit with status 1 and no message if the reader of stdout closes it, as `| head` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(_discard_stdout())


def _discard_stdout() -> int:
    """Redirect stdout to /dev/null, so that Python's flush at exit does not fail; return the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _print_error(command: str, reason: str, status: int, *, as_json: bool) -> int:
    print(f"{command}: error: {reason}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": {"status": status, "reason": reason}}, indent=2, ensure_ascii=False))
    return status
