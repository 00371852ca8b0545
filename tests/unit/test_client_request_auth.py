"""When a new token is made and when the one at hand is used again."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import mlflow_aws_iam
import pytest
from mlflow.exceptions import MlflowException
from mlflow_aws_iam import request_auth
from mlflow_aws_iam.identity import Identity
from mlflow_aws_iam.provider import AwsIamAuthProvider
from mlflow_aws_iam.request_auth import AwsIamAuth
from mlflow_aws_iam.settings import Settings
from mlflow_aws_iam.signing import Token
from requests import PreparedRequest, Request, Response
from requests.hooks import dispatch_hook
from test_client_signing import fields_of

URL = "https://mlflow.example.com/api/2.0/mlflow/runs/get"


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(request_auth, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


class CountingIdentity(Identity):
    signed: int = 0

    def token(self, *arguments: Any, **named: Any) -> Token:
        self.signed += 1
        return super().token(*arguments, **named)


def send(auth: Any, url: str = URL, *, status: int = 200, headers: dict[str, str] | None = None) -> str:
    """What `auth` puts into the Authorization header; then the server answers with `status`."""
    request = Request("GET", url, headers=headers, auth=auth).prepare()
    response = Response()
    response.status_code = status
    dispatch_hook("response", request.hooks, response)
    return str(request.headers["Authorization"])


def fields_sent(auth: Any, url: str = URL, **named: Any) -> dict[str, str]:
    scheme, _, token = send(auth, url, **named).partition(" ")
    assert scheme == "Bearer"
    return fields_of(token)


def test_a_token_is_used_until_it_has_four_minutes_left(clock: Clock) -> None:
    auth = mlflow_aws_iam.auth()
    first = send(auth)
    clock.now += 660
    assert send(auth) == first
    clock.now += 1
    second = fields_sent(auth)
    assert second["d"] == "20260921T142421Z"
    assert send(auth) != first


def test_each_server_gets_its_own(clock: Clock) -> None:
    auth = mlflow_aws_iam.auth()
    one, other = fields_sent(auth), fields_sent(auth, "https://other.example.com:8443/")
    assert (one["h"], other["h"]) == ("mlflow.example.com", "other.example.com")
    assert one["s"] != other["s"]
    assert fields_sent(auth, "https://MLFLOW.example.com:444/x?y") == one


def test_one_signing_for_many_threads() -> None:
    identity = CountingIdentity(Settings())
    auth = AwsIamAuth(identity)
    start, tokens = threading.Barrier(32), []

    def work() -> None:
        start.wait()
        tokens.append(send(auth))

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(tokens), len(set(tokens)), identity.signed) == (32, 1, 1)


def test_credentials_that_renew_themselves_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential process whose credentials are about to end is asked again, and what it says is used at once."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    counter, config = tmp_path / "count", tmp_path / "config"
    script = tmp_path / "process"
    script.write_text(
        f"#!/bin/sh\necho x >> {counter}\n"
        'echo "{\\"Version\\": 1, \\"AccessKeyId\\": \\"ASIAPROCESS00000000$(wc -l < '
        f'{counter} | tr -d " ")\\", \\"SecretAccessKey\\": \\"s\\", \\"SessionToken\\": \\"t\\", '
        '\\"Expiration\\": \\"$(date -u -d "+5 minutes" +%Y-%m-%dT%H:%M:%SZ)\\"}"\n'
    )
    script.chmod(0o755)
    config.write_text(f"[default]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    auth = mlflow_aws_iam.auth()
    keys = [fields_sent(auth)["c"].split("/")[0] for _ in range(2)]
    assert keys[0].startswith("ASIAPROCESS")
    assert keys[0] != keys[1]


def write_profile(file: Path, key: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "credentials"
    write_profile(file, "AKIAFIRSTFIRSTFIRST0")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    return file


def test_a_file_is_read_again_at_each_renewal(clock: Clock, profile: Path) -> None:
    auth = mlflow_aws_iam.auth()
    assert fields_sent(auth)["c"].startswith("AKIAFIRST")
    write_profile(profile, "AKIASECONDSECOND0000")
    assert fields_sent(auth)["c"].startswith("AKIAFIRST")
    clock.now += 700
    assert fields_sent(auth)["c"].startswith("AKIASECOND")


def test_who_logs_in_again_after_a_refusal_need_not_wait(profile: Path) -> None:
    auth = mlflow_aws_iam.auth()
    assert fields_sent(auth, status=401)["c"].startswith("AKIAFIRST")
    write_profile(profile, "AKIASECONDSECOND0000")
    assert fields_sent(auth)["c"].startswith("AKIASECOND")


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_other_answers_leave_the_token(clock: Clock, status: int) -> None:
    auth = mlflow_aws_iam.auth()
    first = send(auth, status=status)
    clock.now += 1
    assert send(auth) == first


def test_who_logs_in_after_an_error_need_not_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    auth = mlflow_aws_iam.auth()
    with pytest.raises(MlflowException, match="no AWS credentials"):
        send(auth)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert fields_sent(auth)


def test_a_bearer_that_is_there_is_kept() -> None:
    auth = mlflow_aws_iam.auth()
    assert send(auth, headers={"Authorization": "Bearer given"}) == "Bearer given"
    assert send(auth, headers={"authorization": "bearer given"}) == "bearer given"


def test_a_user_name_and_password_are_replaced() -> None:
    assert fields_sent(mlflow_aws_iam.auth(), headers={"Authorization": "Basic YWxpY2U6aHVudGVyMg=="})


def test_plain_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://internal-mlflow.eu-west-1.elb.amazonaws.com/"
    with pytest.raises(MlflowException, match="MLFLOW_AWS_IAM_ALLOW_HTTP=true"):
        send(mlflow_aws_iam.auth(), url)
    assert fields_sent(mlflow_aws_iam.auth(allow_http=True), url)
    monkeypatch.setenv("MLFLOW_AWS_IAM_ALLOW_HTTP", "true")
    assert fields_sent(mlflow_aws_iam.auth(), url)
    with pytest.raises(MlflowException, match="MLFLOW_AWS_IAM_ALLOW_HTTP=true"):
        send(mlflow_aws_iam.auth(allow_http=False), url)


@pytest.fixture
def provider() -> AwsIamAuthProvider:
    return AwsIamAuthProvider()


def test_the_provider_has_one_auth_while_nothing_changes(provider: AwsIamAuthProvider) -> None:
    assert provider.get_name() == "aws-iam"
    assert provider.get_auth() is provider.get_auth()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIAOTHEROTHEROTHER0"),
        ("AWS_PROFILE", "other"),
        ("MLFLOW_AWS_IAM_ROLE_ARN", "arn:aws:iam::123456789012:role/r"),
        ("MLFLOW_AWS_IAM_REGION", "eu-west-1"),
    ],
)
def test_a_notebook_changes_who_signs(
    provider: AwsIamAuthProvider, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    before = provider.get_auth()
    monkeypatch.setenv("HOME_OF_SOMETHING_ELSE", "x")
    assert provider.get_auth() is before
    monkeypatch.setenv(name, value)
    assert provider.get_auth() is not before


def test_a_mistaken_variable_is_told_for_every_request(
    provider: AwsIamAuthProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_AWS_IAM_ALLOW_HTTP", "perhaps")
    for _ in range(2):
        with pytest.raises(MlflowException, match="must be true or false"):
            provider.get_auth()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_in_the_middle_of_signing(provider: AwsIamAuthProvider) -> None:
    auth = provider.get_auth()
    with provider._lock, auth._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            sent: PreparedRequest = Request("GET", URL, auth=provider.get_auth()).prepare()
            os._exit(0 if "Authorization" in sent.headers else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
