"""One module per job, each with its definition `JOB` and its entry point `run(config)`, which returns the exit status.

A `run` imports the libraries it needs inside the function, so that help and completion do not wait for torch and Ray.
"""
