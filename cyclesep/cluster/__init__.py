"""Ray: connecting to a cluster or starting one on this machine, and metadata of a run."""
