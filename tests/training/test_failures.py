"""Errors that a user can fix are one line from any process; other errors keep their traceback."""

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


def test_the_error_of_a_loader_process_is_its_own_line() -> None:
    failure = failure_of_a_loader_process()
    assert len(str(failure).splitlines()) > 5
    assert one_line(failure) == MESSAGE
    assert one_line(ShardError(MESSAGE)) == MESSAGE


def test_the_cause_inside_wrapped_errors_is_found() -> None:
    wrapped = TypeError("x")
    wrapped.__cause__ = RuntimeError("y")
    wrapped.__cause__.__cause__ = failure_of_a_loader_process()
    cause = unwrap_error(wrapped)
    assert type(cause) is ShardError
    assert str(cause) == MESSAGE
    assert unwrap_error(TypeError("a bug")) is None
    assert isinstance(unwrap_error(TrainingError("z")), TrainingError)


def test_a_gpu_out_of_memory_is_an_error_with_a_remedy() -> None:
    wrapped = RuntimeError("a worker failed")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")
    cause = unwrap_error(wrapped)
    assert type(cause) is TrainingError
    assert re.fullmatch(
        r"a GPU is out of memory .*2\.00 GiB\. GPU 0.*gradient_accumulation_steps=2 or more.*", str(cause)
    )


def logged(problem: Exception, caplog: pytest.LogCaptureFixture) -> str:
    """Return what a logger with the filter makes of Ray's log text for a failure."""
    logger = logging.getLogger("test-failures")
    logger.filters = [ShortErrorFilter()]
    caplog.clear()
    try:
        raise problem
    except Exception as failure:
        logger.error(f"Error in training function:\nTraceback ...\n{failure}")
    return caplog.messages[-1]


def test_the_log_has_no_traceback_of_cyclesep_errors_but_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert logged(ShardError(MESSAGE), caplog) == f"training stopped: {MESSAGE}"
    assert logged(failure_of_a_loader_process(), caplog) == f"training stopped: {MESSAGE}"
    assert logged(ValueError("a bug"), caplog) == "Error in training function:\nTraceback ...\na bug"
