"""Owns the long form of the feed fuzzer: ``python -m fuzz.feeds SECONDS SEED FOLDER``, led by coverage (atheris).

libFuzzer ends the process itself: 0 = nothing found; otherwise what was raised is printed, and the bytes are in a file.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import atheris

MESSAGE_BYTES_MAX = 20_000
"""Longer than any event that is read."""


def main() -> None:
    seconds, seed, found = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    with atheris.instrument_imports(include=["availability.feeds"]):
        from fuzz.messages import HARD, Judge, corpus, headers_of
    judge = Judge(asyncio.Runner())

    def one(raw: bytes) -> None:
        body = raw[1:]
        judge.judge(body, headers_of(raw[0] if raw else 0, body[:40].decode("latin-1")))

    with tempfile.TemporaryDirectory() as folder:
        for number, message in enumerate([*corpus(), *HARD]):
            for choice in range(8):
                (Path(folder) / f"{number}-{choice}").write_bytes(bytes([choice]) + message)
        options = (f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={MESSAGE_BYTES_MAX}")
        limits = (
            "-timeout=10",
            "-rss_limit_mb=1024",
            f"-artifact_prefix={found}/",
            "-print_final_stats=1",
            "-verbosity=0",
        )
        atheris.Setup([sys.argv[0], *options, *limits, folder], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
