"""The real CDK CLI, run as a child process against an embedded AWS."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local.aws import ACCOUNT, REPOSITORY, EmbeddedAws

_CLI = REPOSITORY / "node_modules" / "aws-cdk" / "bin" / "cdk"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# the CLI's own call stack, and its guess at the code that made a resource
_NOISE = re.compile(
    r"\s+at .*[:(]|\s*(type|source|cause|deploymentErrorCode):|\s*\}|Source Location:|\s+\(no user code"
)
# what says how far a deployment is; the rest of the output is kept for the error message
_WORTH_TELLING = re.compile(
    r"(✅|: deploying\.\.\.|: destroying\.\.\.|: destroyed|_FAILED|ROLLBACK_IN_PROGRESS)"
)
# folders of a repository that no assembly is made from
_NOT_SYNTHESISED = {"__pycache__", "cdk.out", "docs", "kit", "local", "node_modules", "tests"}


class CdkError(RuntimeError):
    """A CDK command failed; the message is the CLI's own, with CloudFormation's reason."""


@dataclass(kw_only=True)
class Cdk:
    """The CDK CLI on one app, with an environment chosen by `-c env=`.

    `app` is the command that synthesises (default: the repository's), run in `directory`. `context` holds
    further `-c` values. `progress` gets a line for each step of a deployment.
    """

    aws: EmbeddedAws
    environment: str | None = None
    app: Sequence[str] = (sys.executable, "app.py")
    directory: Path = REPOSITORY
    context: Mapping[str, str] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        self._assembly = self.aws.directory / "cdk.out"
        self._outputs = self.aws.directory / "outputs.json"
        self._children: set[subprocess.Popen[str]] = set()

    def synth(self) -> Path:
        """Synthesise the app and return the directory of its cloud assembly; the last one where nothing changed."""
        fingerprint = self._fingerprint()
        stamp = self._assembly / "fingerprint"
        if not stamp.exists() or stamp.read_text() != fingerprint:
            stamp.unlink(missing_ok=True)
            app = subprocess.list2cmdline(self.app)
            self._run("synth", "--quiet", "--app", app, "--output", str(self._assembly), *self._context())
            stamp.write_text(fingerprint)
        return self._assembly

    def stop(self) -> None:
        """End the commands that run in other threads; they raise CdkError."""
        for process in list(self._children):
            _end(process)

    def _fingerprint(self) -> str:
        """A digest of all that an assembly is made from: the app's folder, its command and its context."""
        digest = hashlib.sha256(json.dumps([*self.app, *self._context()]).encode())
        for folder, folders, files in os.walk(self.directory):
            folders[:] = sorted(
                name for name in folders if name not in _NOT_SYNTHESISED and not name.startswith(".")
            )
            for file in (Path(folder) / name for name in sorted(files)):
                digest.update(str(file.relative_to(self.directory)).encode() + b"\0" + file.read_bytes())
        if (
            self.environment and Path(self.environment).is_absolute()
        ):  # a file outside, which may extend others
            for file in sorted(Path(self.environment).parent.glob("*.yaml")):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()

    def bootstrap(self) -> None:
        """Make the CDK's own stack: asset bucket, image repository and roles."""
        region = f"aws://{ACCOUNT}/{self.aws.region}"
        # an assembly is not needed, nor is the repository's app to be run
        self._run("bootstrap", region, "--app", "", "--public-access-block-configuration", "false")

    def deploy(self, *, synth: bool = True, arguments: Sequence[str] = ()) -> dict[str, str]:
        """Deploy every stack and return the outputs of all, by their keys.

        `synth` False deploys the assembly that is there. Raises CdkError.
        """
        if synth:
            self.synth()
        self._outputs.unlink(missing_ok=True)
        self._run(
            "deploy",
            "--all",
            *self._from_assembly(),
            "--require-approval=never",
            "--concurrency=4",
            "--progress=events",
            "--outputs-file",
            str(self._outputs),
            *arguments,
        )
        stacks = json.loads(self._outputs.read_text()) if self._outputs.exists() else {}
        return {
            key: value
            for outputs in stacks.values()
            for key, value in outputs.items()
            if not key.startswith("ExportsOutput")  # what stacks tell each other
        }

    def diff(self, *, synth: bool = True) -> str:
        """What a deployment would change, as the CLI prints it."""
        if synth:
            self.synth()
        return self._run("diff", *self._from_assembly())

    def destroy(self) -> None:
        """Destroy every stack of the assembly that was deployed last. Raises CdkError."""
        self._run("destroy", "--all", "--force", *self._from_assembly())

    def _from_assembly(self) -> list[str]:
        return ["--app", str(self._assembly)]

    def _context(self) -> list[str]:
        values = {**({"env": self.environment} if self.environment else {}), **self.context}
        return [part for key, value in values.items() for part in ("--context", f"{key}={value}")]

    def _run(self, *command: str) -> str:
        """Run the CLI, pass its progress on, and return all that it printed."""
        lines: list[str] = []
        process = subprocess.Popen(
            ["node", str(_CLI), *command, "--no-color", "--no-notices", "--ci"],
            cwd=self.directory,
            env=self._variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process, which then stops the CLI in its turn
        )
        self._children.add(process)
        assert process.stdout is not None  # noqa: S101 - it was asked for above
        try:
            for line in process.stdout:
                line = _COLOURS.sub("", line.rstrip())
                lines.append(line)
                if _WORTH_TELLING.search(line):
                    self.progress(line.strip())
            code = process.wait()
        finally:
            self._children.discard(process)
            _end(process)
        if code != 0:
            raise CdkError(f"cdk {command[0]} failed:\n" + _essence(lines))
        return "\n".join(lines)

    def _variables(self) -> dict[str, str]:
        major = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            **self.aws.environment(),
            "NO_PROXY": "localhost,127.0.0.1",
            "CDK_DOCKER": str(REPOSITORY / "local" / "docker_stand_in.py"),
            "CDK_VALIDATION": "false",  # the rules of the assembly are checked by tests, once
            "CDK_DISABLE_VERSION_CHECK": "1",
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            # the CLI remembers the account and partition of an access key: not in the user's home
            "CDK_HOME": str(self.aws.directory / "cdk-home"),
            "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": major.lstrip("v").split(".")[0],
            "JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION": "1",
            "NODE_NO_WARNINGS": "1",
        }


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _essence(lines: list[str]) -> str:
    """The CLI's own error message: from its first ❌ on (or the last lines), without its call stacks."""
    start = next((number for number, line in enumerate(lines) if "❌" in line), max(len(lines) - 40, 0))
    kept = [line for line in lines[start:] if not _NOISE.match(line)]
    return "\n".join(dict.fromkeys(kept)).strip()
