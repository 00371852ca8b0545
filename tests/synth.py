"""Each environment is synthesised once for all tests of a session, without what only costs time."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CDK_VALIDATION", "false")  # one test turns CDK's own validation on

import aws_cdk as cdk
from aws_cdk import cx_api

from stacks.composition import compose
from stacks.environment import Environment
from stacks.environment_files import load

ROOT = Path(__file__).parent.parent

_directory = tempfile.TemporaryDirectory()
atexit.register(_directory.cleanup)

Template = dict[str, Any]
Resource = dict[str, Any]


@dataclass(frozen=True)
class Synthesis:
    """What `cdk synth` makes of one environment."""

    environment: Environment
    app: cdk.App
    assembly: cx_api.CloudAssembly

    @functools.cached_property
    def templates(self) -> dict[str, Template]:
        """The templates by what follows the name of the server, such as `tracking-server`."""
        directory = Path(self.assembly.directory)
        return {
            file.name.removeprefix(f"{self.environment.name}-").removesuffix(".template.json"): json.loads(
                file.read_text(encoding="utf-8")
            )
            for file in sorted(directory.glob("*.template.json"))
        }

    def resources(self, type: str) -> dict[str, Resource]:
        """All resources of a CloudFormation type, by `stack/logical id`."""
        return {
            f"{stack}/{id}": resource
            for stack, template in self.templates.items()
            for id, resource in template["Resources"].items()
            if resource["Type"] == type
        }

    def the(self, type: str) -> dict[str, Any]:
        """The properties of the only resource of a type."""
        (resource,) = self.resources(type).values()
        properties: dict[str, Any] = resource["Properties"]
        return properties


def context() -> dict[str, Any]:
    """The context of cdk.json, which the CLI would pass."""
    content: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    return content | {"@aws-cdk/core:validateAgainstDefaultRules": False}


@functools.cache
def synthesise(name: str) -> Synthesis:
    """The environment `name` of `environments/`, as it is there."""
    return of(load(name), directory=name.replace("/", "-"))


def of(environment: Environment, *, directory: str) -> Synthesis:
    """An environment that a test has changed; `directory` is a name that no other test uses."""
    app = cdk.App(context=context(), outdir=str(Path(_directory.name, directory)))
    compose(app, environment)
    return Synthesis(environment=environment, app=app, assembly=app.synth())


def changed(environment: Environment, **changes: Any) -> Environment:
    """`environment` with other values; a mapping changes the keys of a section."""
    content = environment.model_dump(exclude_unset=True)
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return Environment.model_validate(content)


def flattened(value: Any) -> str:
    """An intrinsic function as one line: `arn:<AWS::Partition>:s3:::…`, `<Bucket.Arn>`."""
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(flattened(part) for part in parts)
        case {"Fn::ImportValue": name}:
            # An export is named after what it exports: stack:ExportsOutput<function><logical id><attribute><hash>.
            return f"<{re.sub(r':ExportsOutput(FnGetAtt|Ref)', ':', str(name))[:-8]}>"
        case _:
            return str(value)
