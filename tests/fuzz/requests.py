"""Owns the fuzzing of the API: schemathesis makes up requests from the document of a real ``availability up``."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from running_up import start

from availability.issuer import SCOPES

_SETTINGS: Final = "checks.positive_data_acceptance.enabled = false\n" + "".join(
    f'[[operations]]\ninclude-name = "POST {path}"\nchecks.negative_data_rejection.enabled = false\n'
    for path in ("/v1/stock-events", "/v1/reservations/batch")
)
"""All checks, but not that all is accepted which fits the schema: a body may fit, and name a location that there is
not. Those two calls answer 200 and refuse, inside of it, the items that are wrong."""
_TOKEN_S: Final = 600
"""How much longer than the run its token is good."""


def fuzz(seconds: int, seed: int) -> bool:
    """Whether every answer was one that the document promises; what was not is printed, with the request."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, start(Path(folder) / "data") as up:
        up.wait_ready()
        argv = [sys.executable, "-m", "availability", "token", "--data-dir", str(up.folder), "--client", "fuzz"]
        argv += ["--scope", " ".join(SCOPES), "--ttl", str(seconds + _TOKEN_S)]
        token = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        settings = Path(folder) / "schemathesis.toml"
        settings.write_text(_SETTINGS)
        asked = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(settings)),
                *("run", f"{up.url}/schema/openapi.json", "--header", f"Authorization: Bearer {token}"),
                *("--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
                *(
                    "--max-time",
                    str(seconds),
                    "--seed",
                    str(seed),
                    "--generation-database",
                    "none",
                    "--warnings",
                    "off",
                ),
            ],
            cwd=folder,
            check=False,
        )
        if asked.returncode != 0:
            sys.stderr.write((up.folder / "logs" / "api.log").read_text()[-4_000:])
    return asked.returncode == 0
