"""What Ray says that no user can act on."""

import logging
import re
from typing import Any

from ray._private import worker as ray_worker

# Says at every start that the cluster's ports are protected by a token, which needs no action.
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)

# What Ray's own processes say to the driver and no user can act on: a job has helper actors beside the workers that it
# asked for; a worker that is slow to start is started anew; Train's helpers look at other people's clusters on the way
# to their own (see `private`), ask again where a busy machine does not answer, and may not start again elsewhere;
# a node that has died has log lines, and places reserved on it.
_IDLE_TALK = re.compile(
    "worker processes have been started on node|have not registered within the timeout|"
    "Found multiple active Ray instances|Failed to query Ray Train Controller actor state|"
    "Actor with class name: 'PreemptionWatcher'|^Raylet is terminated|Failed to remove .* for placement group"
)
_LOST_NODE = re.compile(r"(?s)^The node with node id: \w+ and address: (\S+) .* has been marked dead .*")


def filter_ray_logs() -> None:
    """Let Ray print of what its processes say only what is no idle talk."""
    print_all = ray_worker.print_to_stdstream

    def print_the_rest(data: dict[str, Any], ignore_prefix: bool) -> None:
        lines = [
            _LOST_NODE.sub(r"node \1 is lost: it has died, or nothing was heard from it for too long", line)
            for line in data["lines"]
            if not _IDLE_TALK.search(line)
        ]
        if lines:
            print_all({**data, "lines": lines}, ignore_prefix)

    ray_worker.print_to_stdstream = print_the_rest
