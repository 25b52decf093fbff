"""An error that a user can put right stays one line, whatever process it comes from; a bug keeps its traceback."""

import logging
import re
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from cyclesep.errors import ShardError, TrainingError
from cyclesep.training.failures import ShortErrorFilter, one_line, unwrap_error

MESSAGE = "data/s.lmdb: shard of track 'a: b', segment 3: its checksum does not match; delete the file"


class Damaged(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        raise ShardError(MESSAGE)


def failure_of_a_loader_process() -> ShardError:
    with pytest.raises(ShardError) as raised:
        next(iter(DataLoader(Damaged(), batch_size=None, num_workers=1, multiprocessing_context="fork")))
    return raised.value


def test_what_a_loader_process_met_is_told_in_the_line_that_it_was_raised_with() -> None:
    failure = failure_of_a_loader_process()
    assert len(str(failure).splitlines()) > 5
    assert one_line(failure) == MESSAGE
    assert one_line(ShardError(MESSAGE)) == MESSAGE


def test_the_cause_is_found_below_what_is_wrapped_around_it() -> None:
    wrapped = TypeError("x")
    wrapped.__cause__ = RuntimeError("y")
    wrapped.__cause__.__cause__ = failure_of_a_loader_process()
    cause = unwrap_error(wrapped)
    assert type(cause) is ShardError
    assert str(cause) == MESSAGE
    assert unwrap_error(TypeError("a bug")) is None
    assert isinstance(unwrap_error(TrainingError("z")), TrainingError)


def test_a_gpu_without_memory_is_told_with_what_helps() -> None:
    wrapped = RuntimeError("a worker failed")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")
    cause = unwrap_error(wrapped)
    assert type(cause) is TrainingError
    assert re.fullmatch(
        r"a GPU has too little memory .*2\.00 GiB\. GPU 0.*gradient_accumulation_steps=2 or more.*", str(cause)
    )


def logged(problem: Exception, caplog: pytest.LogCaptureFixture) -> str:
    """What a logger with the filter makes of the text that Ray logs for a failure, traceback and all."""
    logger = logging.getLogger("test-failures")
    logger.filters = [ShortErrorFilter()]
    caplog.clear()
    try:
        raise problem
    except Exception as failure:
        logger.error(f"Error in training function:\nTraceback ...\n{failure}")
    return caplog.messages[-1]


def test_a_log_leaves_out_the_traceback_of_a_users_error_and_keeps_that_of_a_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert logged(ShardError(MESSAGE), caplog) == f"training stopped: {MESSAGE}"
    assert logged(failure_of_a_loader_process(), caplog) == f"training stopped: {MESSAGE}"
    assert logged(ValueError("a bug"), caplog) == "Error in training function:\nTraceback ...\na bug"
