"""Music corpora to ingest: MUSDB18, folders of stems, unpaired recordings, synthetic songs."""
