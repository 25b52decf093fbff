"""Training data: corpora, preprocessing, LMDB shards and random crops."""
