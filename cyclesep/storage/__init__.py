"""Files and folders on this machine or in S3: one path type, atomic writes and one lock per folder."""
