"""What a run, a checkpoint or shards are, in one screen or as JSON."""
