#!/usr/bin/env python3
"""Stands in for docker when the CDK CLI publishes an image: nothing is built, as tasks run natively here.

The CLI finds it through CDK_DOCKER and calls `login`, `inspect`, `build`, `tag` and `push`. A build whose
Dockerfile is missing fails, as docker's would.
"""

import argparse
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Answer one docker command; returns its exit code."""
    command = arguments[0] if arguments else ""
    if command in ("tag", "push"):
        return 0
    if command == "login":
        sys.stdin.read()  # the password, on standard input
        return 0
    if command == "inspect":
        print(f"Error: No such object: {arguments[-1]}", file=sys.stderr)
        return 1
    if command == "build":
        return build(arguments[1:])
    print(f"docker: '{command}' is not a docker command", file=sys.stderr)
    return 1


def build(arguments: list[str]) -> int:
    """Check that the Dockerfile of a build is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", "-f", default="Dockerfile")
    options, rest = parser.parse_known_args(arguments)
    # the CLI runs docker in the build's directory and names it last
    dockerfile = Path(rest[-1]) / options.file
    if dockerfile.is_file():
        return 0
    print(
        f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: {dockerfile}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
