"""Training: a cycle-GAN under DDP, one Ray Train worker per GPU or CPU share, fed from the shards."""
