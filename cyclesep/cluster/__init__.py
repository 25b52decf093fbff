"""Ray: connecting to a cluster or starting one on this machine, and metadata of a run.

Importing any module of this package sets Ray's environment variables before Ray is imported.
"""

from cyclesep.cluster import environment

environment.set_defaults()
environment.suppress_widget_warnings()
