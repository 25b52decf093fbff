"""Filters for Ray's output that a user cannot act on."""

import logging
import re
from typing import Any

from ray._private import worker as ray_worker

# Reports at every start that the cluster's ports are protected by a token.
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)

# Expected events that need no action: helper actors in addition to the requested workers; a slow worker that is started
# again; Train's helpers that look at other clusters of the machine (see `local_cluster`), retry a query on a busy
# machine, or cannot be restarted elsewhere; log lines of a dead node, and resources reserved on it.
_NOISE = re.compile(
    "worker processes have been started on node|have not registered within the timeout|"
    "Found multiple active Ray instances|Failed to query Ray Train Controller actor state|"
    "Actor with class name: 'PreemptionWatcher'|^Raylet is terminated|Failed to remove .* for placement group"
)
_LOST_NODE = re.compile(r"(?s)^The node with node id: \w+ and address: (\S+) .* has been marked dead .*")


def filter_ray_logs() -> None:
    """Drop noise from the process output that Ray prints, and shorten the message about a lost node."""
    print_all = ray_worker.print_to_stdstream

    def print_filtered(data: dict[str, Any], ignore_prefix: bool) -> None:
        lines = [
            _LOST_NODE.sub(r"node \1 is lost: it died or stopped responding", line)
            for line in data["lines"]
            if not _NOISE.search(line)
        ]
        if lines:
            print_all({**data, "lines": lines}, ignore_prefix)

    ray_worker.print_to_stdstream = print_filtered
