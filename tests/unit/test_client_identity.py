"""Whose identity signs: the default credential chain, a role, or what STS states in a JWT."""

from __future__ import annotations

import getpass
import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import botocore.session
import mlflow_aws_iam
import pytest
from mlflow.exceptions import MlflowException
from mlflow_aws_iam.identity import Identity, default_session_name
from mlflow_aws_iam.settings import Settings
from moto import mock_aws
from test_client_signing import expected_signature, fields_of

URI = "https://mlflow.example.com"
ROLE_ARN = "arn:aws:iam::123456789012:role/mlflow/DataScientist"


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


class Sts(ThreadingHTTPServer):
    """Answers as STS does, with credentials and JWTs that it numbers; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _StsHandler)
        self.asked: list[dict[str, str]] = []
        self.lifetime = timedelta(hours=1)
        self.error: tuple[int, str, str] | None = None


class _StsHandler(BaseHTTPRequestHandler):
    server: Sts

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = {name: values[0] for name, values in parse_qs(body).items()}
        asked["region"] = self.headers["Authorization"].split("/")[2]
        asked["signed with"] = self.headers["Authorization"].split("Credential=")[1].split("/")[0]
        self.server.asked.append(asked)
        status, answer = 200, self._answer(asked["Action"])
        if self.server.error:
            status, code, message = self.server.error
            answer = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.end_headers()
        self.wfile.write(answer.encode())

    def _answer(self, action: str) -> str:
        number = len(self.server.asked)
        end = (datetime.now(timezone.utc) + self.server.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        result = {
            "AssumeRole": f"<Credentials><AccessKeyId>ASIAROLE{number:012}</AccessKeyId><SecretAccessKey>role"
            f"</SecretAccessKey><SessionToken>sessiontoken{number:04}</SessionToken><Expiration>{end}</Expiration>"
            "</Credentials>",
            "GetWebIdentityToken": f"<WebIdentityToken>jwt.{number}.x</WebIdentityToken><Expiration>{end}</Expiration>",
        }[action]
        return f"<{action}Response><{action}Result>{result}</{action}Result></{action}Response>"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sts]:
    with Sts() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


@pytest.mark.usefixtures("user")
def test_the_default_chain_signs() -> None:
    fields = fields_of(mlflow_aws_iam.token(f"{URI}:8443/x"))
    assert fields["c"].startswith("AKIAIOSFODNN7EXAMPLE/")
    assert fields["h"] == "mlflow.example.com"
    assert fields["s"] == expected_signature(fields, server_name="mlflow.example.com", secret="secret")


def test_a_profile_signs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        "[team]\naws_access_key_id = ASIATEAMTEAMTEAMTEAM\naws_secret_access_key = s\n"
        "aws_session_token = dG9rZW4\nregion = eu-west-3\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "team")
    fields = fields_of(mlflow_aws_iam.token(URI))
    assert (fields["c"].split("/")[0], fields["c"].split("/")[2]) == ("ASIATEAMTEAMTEAMTEAM", "eu-west-3")
    assert fields["t"] == "dG9rZW4"


@pytest.mark.usefixtures("user")
def test_a_given_session_signs() -> None:
    session = botocore.session.Session()
    session.set_credentials("ASIAGIVENGIVENGIVEN0", "s", "token")
    session.set_config_variable("region", "eu-north-1")
    fields = fields_of(mlflow_aws_iam.token(URI, session=session))
    assert (fields["c"].split("/")[0], fields["c"].split("/")[2]) == ("ASIAGIVENGIVENGIVEN0", "eu-north-1")
    assert fields_of(mlflow_aws_iam.token(URI, session=session, region="eu-south-1"))["c"].split("/")[2] == (
        "eu-south-1"
    )


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_DEFAULT_REGION": "eu-west-2", "MLFLOW_AWS_IAM_REGION": "cn-north-1"}, "cn-north-1"),
    ],
)
def test_region(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], region: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert fields_of(mlflow_aws_iam.token(URI))["c"].split("/")[2] == region


def test_without_credentials_it_says_how_to_log_in() -> None:
    with pytest.raises(MlflowException, match="no AWS credentials") as caught:
        mlflow_aws_iam.token(URI)
    for way in (
        "aws sso login",
        "aws configure",
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "where a role is attached",
    ):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AWS_PROFILE": "nobody"}, r"Your AWS credentials cannot be used: .*nobody.* Log in"),
        (
            {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"},
            "Your AWS credentials cannot be used: Partial credentials",
        ),
        (
            {"MLFLOW_AWS_IAM_ALLOW_HTTP": "maybe"},
            "MLFLOW_AWS_IAM_ALLOW_HTTP must be true or false, but is 'maybe'",
        ),
        ({"MLFLOW_AWS_IAM_WEB_IDENTITY": "on"}, "MLFLOW_AWS_IAM_WEB_IDENTITY must be true or false"),
    ],
)
def test_what_is_wrong_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MlflowException, match=message):
        mlflow_aws_iam.token(URI)


def test_an_expired_single_sign_on_says_how_to_renew_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile team]\nsso_start_url = https://example.awsapps.com/start\nsso_region = eu-west-1\n"
        "sso_account_id = 123456789012\nsso_role_name = Scientist\nregion = eu-west-1\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MlflowException, match=r"cannot be used: Error loading SSO Token.*`aws sso login`"):
        mlflow_aws_iam.token(URI)


def test_settings_from_the_environment() -> None:
    assert Settings.from_environment({"MLFLOW_AWS_IAM_ROLE_ARN": "", "AWS_PROFILE": "x"}) == Settings()
    assert Settings.from_environment(
        {
            "MLFLOW_AWS_IAM_ROLE_ARN": ROLE_ARN,
            "MLFLOW_AWS_IAM_ROLE_SESSION_NAME": "alice",
            "MLFLOW_AWS_IAM_SOURCE_IDENTITY": "alice@example.com",
            "MLFLOW_AWS_IAM_EXTERNAL_ID": "42",
            "MLFLOW_AWS_IAM_REGION": "eu-west-1",
            "MLFLOW_AWS_IAM_ALLOW_HTTP": "True",
            "MLFLOW_AWS_IAM_WEB_IDENTITY": "1",
        }
    ) == Settings(
        role_arn=ROLE_ARN,
        role_session_name="alice",
        source_identity="alice@example.com",
        external_id="42",
        region="eu-west-1",
        allow_http=True,
        web_identity=True,
    )


@pytest.mark.usefixtures("user")
def test_a_role_is_assumed() -> None:
    with mock_aws(config={"core": {"mock_credentials": False}}):
        fields = fields_of(mlflow_aws_iam.token(URI, role_arn=ROLE_ARN))
    assert fields["c"].startswith("ASIA")
    assert len(fields["t"]) > 100


@pytest.mark.usefixtures("user")
def test_what_is_told_when_a_role_is_assumed(monkeypatch: pytest.MonkeyPatch, sts: Sts) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "CORP\\jürgen")
    mlflow_aws_iam.token(URI, role_arn=ROLE_ARN)
    monkeypatch.setenv("MLFLOW_AWS_IAM_ROLE_ARN", ROLE_ARN)
    monkeypatch.setenv("MLFLOW_AWS_IAM_ROLE_SESSION_NAME", "training-7")
    monkeypatch.setenv("MLFLOW_AWS_IAM_SOURCE_IDENTITY", "alice")
    monkeypatch.setenv("MLFLOW_AWS_IAM_EXTERNAL_ID", "42")
    monkeypatch.setenv("MLFLOW_AWS_IAM_REGION", "eu-west-1")
    assert fields_of(mlflow_aws_iam.token(URI))["c"].startswith("ASIAROLE000000000002/")
    common = {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": ROLE_ARN,
        "signed with": "AKIAIOSFODNN7EXAMPLE",
    }
    assert sts.asked == [
        common | {"RoleSessionName": "CORP-j-rgen", "region": "us-east-1"},
        common
        | {
            "RoleSessionName": "training-7",
            "SourceIdentity": "alice",
            "ExternalId": "42",
            "region": "eu-west-1",
        },
    ]


@pytest.mark.usefixtures("user")
def test_a_role_is_assumed_once_and_again_before_it_ends(sts: Sts) -> None:
    identity = Identity(Settings(role_arn=ROLE_ARN))
    assert {identity.credentials(anew=anew).access_key for anew in (True, False, True)} == {
        "ASIAROLE000000000001"
    }
    sts.lifetime = timedelta(minutes=5)
    identity = Identity(Settings(role_arn=ROLE_ARN))
    assert identity.credentials(anew=False).access_key == "ASIAROLE000000000002"
    assert identity.credentials(anew=False).access_key == "ASIAROLE000000000003"


@pytest.mark.usefixtures("user")
def test_a_role_that_is_refused_is_named_and_asked_for_again(sts: Sts) -> None:
    sts.error = (403, "AccessDenied", "User is not authorized to perform: sts:AssumeRole")
    identity = Identity(Settings(role_arn=ROLE_ARN))
    with pytest.raises(MlflowException, match=rf"The role {ROLE_ARN} could not be assumed: .*not authorized"):
        identity.credentials(anew=True)
    sts.error = None
    assert identity.credentials(anew=True).access_key == "ASIAROLE000000000002"


@pytest.mark.parametrize(
    ("user_name", "expected"),
    [
        ("alice", "alice"),
        ("CORP\\alice", "CORP-alice"),
        ("a b/c", "a-b-c"),
        ("x", "mlflow"),
        ("u" * 80, "u" * 64),
    ],
)
def test_default_session_name(monkeypatch: pytest.MonkeyPatch, user_name: str, expected: str) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: user_name)
    assert default_session_name() == expected


def test_default_session_name_where_the_user_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert default_session_name() == "mlflow"


@pytest.mark.usefixtures("user")
def test_web_identity(monkeypatch: pytest.MonkeyPatch, sts: Sts) -> None:
    monkeypatch.setenv("MLFLOW_AWS_IAM_WEB_IDENTITY", "true")
    assert mlflow_aws_iam.token(f"{URI}:8443", region="eu-west-1") == "jwt.1.x"
    assert sts.asked == [
        {
            "Action": "GetWebIdentityToken",
            "Version": "2011-06-15",
            "Audience.member.1": "mlflow.example.com",
            "SigningAlgorithm": "RS256",
            "DurationSeconds": "900",
            "region": "eu-west-1",
            "signed with": "AKIAIOSFODNN7EXAMPLE",
        }
    ]


@pytest.mark.usefixtures("user")
def test_web_identity_of_a_role(monkeypatch: pytest.MonkeyPatch, sts: Sts) -> None:
    monkeypatch.setenv("MLFLOW_AWS_IAM_WEB_IDENTITY", "true")
    assert mlflow_aws_iam.token(URI, role_arn=ROLE_ARN) == "jwt.2.x"
    assert [(asked["Action"], asked["signed with"]) for asked in sts.asked] == [
        ("AssumeRole", "AKIAIOSFODNN7EXAMPLE"),
        ("GetWebIdentityToken", "ASIAROLE000000000001"),
    ]


@pytest.mark.usefixtures("user")
def test_web_identity_that_is_refused(monkeypatch: pytest.MonkeyPatch, sts: Sts) -> None:
    monkeypatch.setenv("MLFLOW_AWS_IAM_WEB_IDENTITY", "true")
    sts.error = (400, "OutboundWebIdentityFederationDisabled", "not enabled")
    with pytest.raises(
        MlflowException, match=r"not enabled.*sts:GetWebIdentityToken.*outbound identity federation"
    ):
        mlflow_aws_iam.token(URI)


@pytest.mark.usefixtures("user")
def test_web_identity_with_an_old_botocore() -> None:
    class OldSession(botocore.session.Session):
        def create_client(self, *_: Any, **__: Any) -> Any:
            return object()

    identity = Identity(Settings(web_identity=True), session=OldSession())
    credentials = identity.credentials(anew=True)
    with pytest.raises(MlflowException, match="pip install --upgrade botocore"):
        identity.token(credentials, host="mlflow.example.com", now=0)


@pytest.mark.usefixtures("user", "sts")
def test_nothing_of_the_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = mlflow_aws_iam.token(URI)
    assert caplog.text  # botocore tells where it found the credentials
    assert token not in caplog.text
    assert fields_of(token)["s"] not in caplog.text
