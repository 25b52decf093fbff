"""`cyclesep tune`: connect to Ray, search, print what came out."""

import sys

from rich.console import Console

from cyclesep.cluster.connect import connect
from cyclesep.evaluation import score_display
from cyclesep.tuning.config import TuneConfig
from cyclesep.tuning.search import search
from cyclesep.tuning.search_display import print_search
from cyclesep.tuning.space import grid_size, read_space


def tune(config: TuneConfig) -> int:
    """Search for settings of a training run, or go on with a search; the status is 1 if the winner's scores fail."""
    # Before Ray, which takes seconds to start.
    space = read_space(config.space, config.train)
    if config.search == "grid":
        grid_size(space)
    # The rows and the display tell what trials do; what all their processes print would bury it.
    with connect(log_to_driver=False):
        done = search(config)
    print_search(done, console=Console())
    if done.scores is None:
        return 0
    score_display.print_summary(done.scores.tracks, console=Console())
    for failure in done.scores.failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if done.scores.failed else 0
