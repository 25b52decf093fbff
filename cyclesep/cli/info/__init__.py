"""`cyclesep info`: descriptions of runs, checkpoints and shards, as text or JSON."""
