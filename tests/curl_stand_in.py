"""Stands in for curl on a machine without it: the few options that the README's tour uses, and nothing else."""

import argparse
import sys
import urllib.error
import urllib.request


def main() -> None:
    """Make one request and print the answer as ``curl -s`` or ``curl -si`` does."""
    options = argparse.ArgumentParser()
    options.add_argument("url")
    options.add_argument("-s", action="store_true")
    options.add_argument("-i", action="store_true")
    options.add_argument("-X", dest="method")
    options.add_argument("-H", dest="headers", action="append", default=[])
    options.add_argument("-d", dest="body")
    asked = options.parse_args()
    body = None if asked.body is None else asked.body.encode()
    headers = dict(header.split(": ", 1) for header in asked.headers)
    request = urllib.request.Request(asked.url, body, headers, method=asked.method)  # noqa: S310 the tour's own URL
    try:
        answer = urllib.request.urlopen(request)  # noqa: S310
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        if asked.i:
            sys.stdout.write(f"HTTP/1.1 {answer.status} {answer.reason}\r\n")
            for name, value in answer.headers.items():
                sys.stdout.write(f"{name.lower()}: {value}\r\n")
            sys.stdout.write("\r\n")
        sys.stdout.write(answer.read().decode())


if __name__ == "__main__":
    main()
