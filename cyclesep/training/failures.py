"""Errors that stopped a training run, as one line if a user can fix them."""

import logging
import re
import sys

import torch
from ray.exceptions import OutOfMemoryError
from typing_extensions import override

from cyclesep.cluster.connect import out_of_memory_error
from cyclesep.errors import CyclesepError, TrainingError


def unwrap_error(failure: BaseException | None) -> CyclesepError | None:
    """Return the CyclesepError inside errors of Ray and torch, or an error for lack of (GPU) memory, else None."""
    while failure is not None:
        if isinstance(failure, CyclesepError):
            return type(failure)(one_line(failure))
        if isinstance(failure, OutOfMemoryError):
            return out_of_memory_error(failure)
        if isinstance(failure, torch.OutOfMemoryError):
            return TrainingError(
                f"a GPU is out of memory ({' '.join(str(failure).split())[:120]}); set "
                "method.gradient_accumulation_steps=2 or more, or lower crops.batch_size or crops.crop_seconds"
            )
        inner = (getattr(failure, name, None) for name in ("cause", "controller_failure"))
        failure = next(filter(None, inner), failure.__cause__)
    return None


def one_line(problem: CyclesepError) -> str:
    """Return the message without the traceback that a DataLoader prepends if one of its processes failed."""
    return re.sub(r"^cyclesep\.[\w.]+: ", "", str(problem).strip().rpartition("\n")[2])


class ShortErrorFilter(logging.Filter):
    """Removes tracebacks of CyclesepErrors from Ray Train's log; those of other errors stay."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record if such an error is being handled; every record is logged."""
        problem = sys.exc_info()[1]
        if isinstance(problem, CyclesepError):
            record.msg, record.args = f"training stopped: {one_line(problem)}", ()
        return True
