"""Names of stems with a special meaning."""

MIXTURE = "mixture"
VOCALS = "vocals"
ACCOMPANIMENT = "accompaniment"
"""Everything but the target, usually the vocals."""
