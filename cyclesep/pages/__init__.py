"""Pages that open from disk: one self-contained HTML file each, with nothing to fetch."""

from cyclesep.pages.command import report_on
from cyclesep.pages.environment import page_environment
from cyclesep.pages.evaluation_page import write_evaluation_page
from cyclesep.pages.training_page import write_training_page

__all__ = ["page_environment", "report_on", "write_evaluation_page", "write_training_page"]
