"""Ray: connecting to a cluster or starting a local one, and run metadata."""
