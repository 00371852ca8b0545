"""`kit outputs`: what a deployment gives to those who use it."""

from __future__ import annotations

from kit.console import Json, print_json, print_rows
from kit.deployment import find
from kit.environments import Name


def outputs(env: Name = "local", json: Json = False) -> None:
    """The tracking URI, role ARNs, bucket and the rest of a deployed environment.

    Answers from a running `kit up` of that environment if there is one, else from the SSM parameters in the
    account and region that your AWS credentials and the environment file name.
    """
    found = find(env).outputs
    if json:
        print_json(found)
    else:
        print_rows(dict(found))
