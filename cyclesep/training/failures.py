"""What stopped a training run, as one line, where it is something that a user can put right."""

import logging
import re
import sys

import torch
from ray.exceptions import OutOfMemoryError
from typing_extensions import override

from cyclesep.cluster.connect import out_of_memory_error
from cyclesep.errors import CyclesepError, TrainingError


def unwrap_error(failure: BaseException | None) -> CyclesepError | None:
    """The error of ours inside what Ray and torch wrap around it, in one line; or that memory ran out, a GPU's too."""
    while failure is not None:
        if isinstance(failure, CyclesepError):
            return type(failure)(one_line(failure))
        if isinstance(failure, OutOfMemoryError):
            return out_of_memory_error(failure)
        if isinstance(failure, torch.OutOfMemoryError):
            return TrainingError(
                f"a GPU has too little memory for this run ({' '.join(str(failure).split())[:120]}); take batches in "
                "parts by method.gradient_accumulation_steps=2 or more, or lower crops.batch_size or crops.crop_seconds"
            )
        inner = (getattr(failure, name, None) for name in ("_base_exc", "cause", "controller_failure"))
        failure = next(filter(None, inner), failure.__cause__)
    return None


def one_line(problem: CyclesepError) -> str:
    """The message without the traceback that a DataLoader puts before it when a loader process has failed."""
    return re.sub(r"^cyclesep\.[\w.]+: ", "", str(problem).strip().rpartition("\n")[2])


class ShortUserErrors(logging.Filter):
    """Leaves tracebacks out of Ray Train's log of errors that a user can put right; those of bugs stay."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record if it is made while such an error is handled; it is logged in either case."""
        problem = sys.exc_info()[1]
        if isinstance(problem, CyclesepError):
            record.msg, record.args = f"training stopped: {one_line(problem)}", ()
        return True
