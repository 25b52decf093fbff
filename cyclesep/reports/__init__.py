"""Pages that open from disk: one self-contained HTML file each, with nothing to fetch."""
