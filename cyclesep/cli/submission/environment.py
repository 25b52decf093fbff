"""The environment of a job: variables that travel with it, which anybody may see who sees the cluster's dashboard.

Secrets do not travel: a cluster has its own (a machine's role, ~/.aws, the environment in which `ray start` runs, a
secret of Kubernetes), and a job may refer to them as `${NAME}`.
"""

import os
import re
from collections.abc import Sequence

from cyclesep.errors import ConfigError

# A path to a secret is none.
_SECRET_NAME = re.compile(
    r"(?!.*_(FILE|PATH)$).*(SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|ACCESS_KEY|PRIVATE_KEY|API_?KEY|(_KEY|AUTH)$)",
    re.IGNORECASE,
)
# Keys of AWS, Hugging Face, GitHub and OpenAI begin like this.
_SECRET_VALUE = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}|hf_\w{20,}|gh[pousr]_\w{20,}|sk-[\w-]{20,}")
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Ray gives them to a job itself, or refuses to be told twice.
_TAKEN = ("RAY_ADDRESS", "PYTHONPATH")


def variables(words: Sequence[str]) -> dict[str, str]:
    """What `--env` words mean: NAME is the variable of this shell, NAME=VALUE a value, ${OTHER} in it the cluster's.

    Raises ConfigError for a variable that is not set here and for a secret, without telling its value.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise ConfigError(f"--env {name}: is no variable that a job may be given; write --env NAME or NAME=VALUE")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: is not set in this shell; set it, or write --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
        if _is_secret(name, found[name]):
            raise ConfigError(
                f"--env {name}: is a secret, which everybody could read in Ray's dashboard; set it where Ray starts "
                f"on the cluster, or name the cluster's variable that holds it: --env '{name}=${{OTHER_NAME}}'"
            )
    return found


def refuse_secrets(words: Sequence[str]) -> None:
    """Raise ConfigError if a word of a job holds a URL with a password, which would be seen in Ray's list of jobs."""
    for word in words:
        if _PASSWORD_IN_URL.search(word):
            name = word.partition("=")[0] if "=" in word else "a word"
            raise ConfigError(
                f"{name}: holds a URL with a password, which everybody could read in Ray's dashboard; give the "
                "cluster AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
            )


def _is_secret(name: str, value: str) -> bool:
    if _PASSWORD_IN_URL.search(value) or _SECRET_VALUE.search(value):
        return True
    return bool(_SECRET_NAME.match(name)) and not _REFERENCE.fullmatch(value)
