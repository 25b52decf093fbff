"""Jobs on a remote Ray cluster: what travels with one, how it is sent, followed, listed and stopped."""
