"""Audio files and arrays: decode, encode, resample, check, draw."""
