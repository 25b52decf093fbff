"""Placement groups that trials have reserved and that nobody gives back when they are stopped at a bad moment."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_placement_groups
from ray.util.state.exception import RayStateApiException

# More than any cluster holds; Ray's own limit is 100.
_LIMIT = 10_000


@contextmanager
def release_placement_groups() -> Iterator[None]:
    """When the block ends, however, remove what this job has reserved in it and still holds.

    Ray Train's workers have a group of their own; Ray gives it back when their controller ends, but not always when
    that was still waiting for it (https://github.com/ray-project/ray/issues/62753). A cluster without a
    dashboard cannot tell; there the end of the job gives back all.
    """
    try:
        before = groups_of_this_job()
    except RayStateApiException:
        yield
        return
    try:
        yield
    finally:
        with suppress(Exception):
            for name in groups_of_this_job() - before:
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def groups_of_this_job() -> set[str]:
    """The placement groups that this process and its actors have made and not removed, by their ids in hex."""
    context = ray.get_runtime_context()
    groups = list_placement_groups(
        address=context.gcs_address, detail=True, limit=_LIMIT, raise_on_missing_output=False
    )
    job = context.get_job_id()
    return {
        group.placement_group_id
        for group in groups
        if group.creator_job_id == job and group.state != "REMOVED" and not group.is_detached
    }
