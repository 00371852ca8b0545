"""Tokens that STS issues for this server, in the place of signed requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from guarded import ARN, Account, Guarded, Keys, audit_lines
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from proxy import serve
from server_process import Server

from local.aws import ACCOUNT
from stacks.access import policy_document

CLAIMS = "https://sts.amazonaws.com/"
AUDIENCE = "localhost"
ROLE = "Analyst"


@pytest.fixture(scope="module")
def issuer(account: Account) -> str:
    """The account's own issuer, and a role that may ask it for tokens."""
    document = policy_document("data-scientist", ARN)
    document["Statement"].append({"Effect": "Allow", "Action": "sts:GetWebIdentityToken", "Resource": "*"})
    account.role(ROLE, document)
    url: str = account.iam.enable_outbound_web_identity_federation()["IssuerIdentifier"]
    return url


@pytest.fixture(scope="module", params=["iam", "roles"])
def trusting(request: pytest.FixtureRequest, guarded: Guarded, issuer: str) -> Iterator[Server]:
    """A server of each engine that takes tokens of the issuer."""
    roles = json.loads(guarded.policies())
    arn, document = f"arn:aws:iam::{ACCOUNT}:role/mlflow-test-{ROLE}", policy_document("data-scientist", ARN)
    identifier = guarded.account.iam.get_role(RoleName=f"mlflow-test-{ROLE}")["Role"]["RoleId"]
    roles[identifier] = {"name": ROLE, "arn": arn, "policy": document}
    extra = {"ACCESS_ROLES": json.dumps(roles)} if request.param == "roles" else {}
    server = serve(
        guarded,
        ACCESS_ENGINE=request.param,
        ACCESS_WEB_IDENTITY_ISSUER=issuer,
        ACCESS_TRUSTED_PROXIES="0",
        **extra,
    )
    yield server
    server.kill()


def issue(account: Account, keys: Keys, *audience: str, algorithm: str = "RS256", seconds: int = 300) -> str:
    """A token as STS issues it."""
    sts = keys.session().create_client("sts", endpoint_url=account.aws.endpoint)
    answer = sts.get_web_identity_token(
        Audience=audience or [AUDIENCE], SigningAlgorithm=algorithm, DurationSeconds=seconds
    )
    token: str = answer["WebIdentityToken"]
    return token


def who(server: Server, token: str) -> requests.Response:
    """Ask a server who it takes the bearer of a token for."""
    return requests.get(f"{server.url}/iam/whoami", headers={"Authorization": f"Bearer {token}"}, timeout=30)


def test_client(
    trusting: Server, as_role: Callable[[str], None], issuer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_role(ROLE)
    monkeypatch.setenv("MLFLOW_AWS_IAM_WEB_IDENTITY", "true")
    client = MlflowClient(trusting.url)
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "loss", 0.5)
    assert client.get_run(run.info.run_id).data.metrics == {"loss": 0.5}
    with pytest.raises(
        MlflowException,
        match=rf"PERMISSION_DENIED: User: arn:aws:iam::{ACCOUNT}:role/mlflow-test-{ROLE} "
        r"is not authorized to perform: sagemaker-mlflow:CreateWebhook on resource: arn:aws:sagemaker",
    ):
        client.create_webhook("hook", "https://1.1.1.1/", ["prompt.created"])
    lines = audit_lines(trusting)[-4:]
    assert {line["via"] for line in lines} == {"web-identity"}
    assert [line["decision"] for line in lines] == ["allow", "allow", "allow", "deny"]


@pytest.mark.parametrize("algorithm", ["RS256", "ES384"])
def test_who(trusting: Server, account: Account, issuer: str, algorithm: str) -> None:
    answer = who(trusting, issue(account, account.assume(ROLE), algorithm=algorithm))
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["via"], said["principal"], said["name"]) == ("web-identity", "role", f"mlflow-test-{ROLE}")
    assert "CreateRun" in said["actions"]
    assert "DeleteModelVersion" not in said["actions"]


def test_bearer_for_a_web_identity(trusting: Server, account: Account, issuer: str) -> None:
    headers = {"Authorization": f"Bearer {issue(account, account.assume(ROLE))}"}
    made = requests.post(f"{trusting.url}/iam/token", headers=headers, timeout=30).json()
    said = who(trusting, made["access_token"]).json()
    assert (said["via"], said["name"]) == ("bearer", f"mlflow-test-{ROLE}")
    assert "CreateRun" in said["actions"]


def test_several_audiences(trusting: Server, account: Account, issuer: str) -> None:
    answer = who(trusting, issue(account, account.assume(ROLE), "elsewhere.example.com", AUDIENCE))
    assert answer.status_code == 200, answer.text


def test_user(trusting: Server, account: Account, issuer: str) -> None:
    name = f"user-{uuid.uuid4().hex[:8]}"
    token = issue(account, account.user(name, {"sts:GetWebIdentityToken": "*"}))
    said = who(trusting, token).json()
    assert (said["principal"], said["name"]) == ("user", name)
    assert said["actions"] == []


class Forger:
    """Makes tokens that are like the issuer's in all but what a test changes.

    The issuer's private key signs only what STS would not, such as a token that has expired.
    """

    def __init__(self, account: Account, issuer: str) -> None:
        self.key = account.aws.sts.issuer._keys["RS256"]
        self.own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.real = issue(account, account.assume(ROLE))
        self.claims: dict[str, Any] = jwt.decode(self.real, options={"verify_signature": False})
        self.issuer = issuer

    def token(self, *, kid: str = "RSA_0", key: Any = None, **changes: Any) -> str:
        """A token with other claims; None takes one away."""
        claims = {name: value for name, value in (self.claims | changes).items() if value is not None}
        return jwt.encode(claims, key or self.key, "RS256", headers={"kid": kid})

    def other_account(self, **changes: Any) -> dict[str, Any]:
        return {CLAIMS: {**self.claims[CLAIMS], **changes}}

    def public_key(self) -> bytes:
        """The public key as text, which a careless server would take for a shared secret."""
        return bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def without_signature(self, algorithm: str = "none") -> str:
        """The claims under a header that asks for no check."""
        parts = ({"alg": algorithm, "typ": "JWT", "kid": "RSA_0"}, self.claims)
        return ".".join([*(encode(json.dumps(part).encode()) for part in parts), ""])

    def with_shared_secret(self) -> str:
        """HS256 with the public key as the secret."""
        parts = ({"alg": "HS256", "typ": "JWT", "kid": "RSA_0"}, self.claims)
        text = ".".join(encode(json.dumps(part).encode()) for part in parts)
        return f"{text}.{encode(hmac.new(self.public_key(), text.encode(), hashlib.sha256).digest())}"

    def altered(self) -> str:
        """The real token with another subject under the old signature."""
        header, _, signature = self.real.split(".")
        subject = f"arn:aws:iam::{ACCOUNT}:role/mlflow-test-Admin"
        return ".".join([header, encode(json.dumps(self.claims | {"sub": subject}).encode()), signature])

    def with_own_key_in_header(self) -> str:
        """Signed with a key of one's own, which the header offers."""
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(self.own.public_key(), as_dict=True)
        headers = {"kid": "RSA_0", "jwk": jwk, "jku": f"{self.issuer}/.well-known/jwks.json"}
        return jwt.encode(self.claims, self.own, "RS256", headers=headers)


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def ago(seconds: int) -> int:
    return int(time.time()) - seconds


FORGERIES: dict[str, Callable[[Forger], str]] = {
    "other audience": lambda forger: forger.token(aud="elsewhere.example.com"),
    "part of the audience": lambda forger: forger.token(aud=f"{AUDIENCE}.example.com"),
    "no audience": lambda forger: forger.token(aud=None),
    "empty audience": lambda forger: forger.token(aud=[]),
    "other issuer": lambda forger: forger.token(iss=f"{forger.issuer}0"),
    "no issuer": lambda forger: forger.token(iss=None),
    "expired": lambda forger: forger.token(iat=ago(400), exp=ago(100)),
    "no expiry": lambda forger: forger.token(exp=None),
    "expires too late": lambda forger: forger.token(exp=ago(-90_000)),
    "from the future": lambda forger: forger.token(iat=ago(-300), exp=ago(-600)),
    "no time of issue": lambda forger: forger.token(iat=None),
    "no id": lambda forger: forger.token(jti=None),
    "other account's claim": lambda forger: forger.token(**forger.other_account(aws_account="210987654321")),
    "no account's claim": lambda forger: forger.token(**{CLAIMS: None}),
    "odd account's claim": lambda forger: forger.token(**{CLAIMS: [ACCOUNT]}),
    "other account's role": lambda forger: forger.token(
        sub=f"arn:aws:iam::210987654321:role/mlflow-test-{ROLE}"
    ),
    "other partition's role": lambda forger: forger.token(
        sub=f"arn:aws-cn:iam::{ACCOUNT}:role/mlflow-test-{ROLE}"
    ),
    "the root user": lambda forger: forger.token(sub=f"arn:aws:iam::{ACCOUNT}:root"),
    "no subject": lambda forger: forger.token(sub=None),
    "unknown key": lambda forger: forger.token(kid="RSA_9"),
    "no key id": lambda forger: jwt.encode(forger.claims, forger.key, "RS256"),
    "key id of another algorithm": lambda forger: forger.token(kid="EC384_0"),
    "key of one's own": lambda forger: forger.token(key=forger.own),
    "key of one's own in the header": lambda forger: forger.with_own_key_in_header(),
    "alg none": lambda forger: forger.without_signature(),
    "alg None": lambda forger: forger.without_signature("None"),
    "no signature": lambda forger: forger.without_signature("RS256"),
    "HS256 with the public key": lambda forger: forger.with_shared_secret(),
    "altered claims": lambda forger: forger.altered(),
    "no JSON": lambda forger: f"{encode(b'{x')}.{encode(b'{}')}.AAAA",
    "too long": lambda forger: forger.token(more="x" * 9000),
}


@pytest.fixture(scope="module")
def forger(account: Account, issuer: str) -> Forger:
    return Forger(account, issuer)


def test_forger_makes_tokens_that_hold(trusting: Server, forger: Forger) -> None:
    assert who(trusting, forger.token()).status_code == 200


@pytest.mark.parametrize("name", FORGERIES)
def test_forged(trusting: Server, forger: Forger, name: str) -> None:
    token = FORGERIES[name](forger)
    answer = who(trusting, token)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED"), answer.text
    line = audit_lines(trusting)[-1]
    assert (line["decision"], line["status"], line["arn"]) == ("deny", 401, None)
    assert token not in trusting.output


def test_off_by_default(server: Server, forger: Forger) -> None:
    answer = who(server, forger.real)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")


def test_invented_key_ids_do_not_make_the_server_ask(guarded: Guarded, forger: Forger) -> None:
    with KeyServer(forger) as keys:
        server = serve(guarded, ACCESS_WEB_IDENTITY_ISSUER=keys.url, ACCESS_TRUSTED_PROXIES="0")
        assert who(server, forger.token(iss=keys.url)).status_code == 200
        for number in range(10):
            assert who(server, forger.token(iss=keys.url, kid=f"RSA_{number + 1}")).status_code == 401
        assert who(server, forger.token(iss=keys.url, jti="another")).status_code == 200
        server.kill()
        assert keys.asked == 1


def test_keys_that_cannot_be_read(guarded: Guarded, forger: Forger) -> None:
    with KeyServer(forger) as keys:
        keys.status = 500
        server = serve(guarded, ACCESS_WEB_IDENTITY_ISSUER=keys.url, ACCESS_TRUSTED_PROXIES="0")
        token = forger.token(iss=keys.url)
        answer = who(server, token)
        assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        keys.status = 200
        assert who(server, token).status_code == 200
        server.kill()


def test_key_of_an_unknown_kind_beside_the_others(guarded: Guarded, forger: Forger) -> None:
    with KeyServer(forger) as keys:
        keys.more = [{"kty": "AKP", "kid": "ML_0", "alg": "ML-DSA-65", "pub": "AA"}]
        server = serve(guarded, ACCESS_WEB_IDENTITY_ISSUER=keys.url, ACCESS_TRUSTED_PROXIES="0")
        assert who(server, forger.token(iss=keys.url)).status_code == 200
        server.kill()


class KeyServer(ThreadingHTTPServer):
    """Publishes the forger's issuer's key under a URL of its own, and counts who asks."""

    def __init__(self, forger: Forger) -> None:
        super().__init__(("127.0.0.1", 0), KeyHandler)
        jwk = jwt.algorithms.RSAAlgorithm.to_jwk(forger.key.public_key(), as_dict=True)
        self.keys: list[dict[str, Any]] = [{**jwk, "kid": "RSA_0", "alg": "RS256", "use": "sig"}]
        self.more: list[dict[str, Any]] = []
        self.asked, self.status = 0, 200

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_port}"

    def __enter__(self) -> KeyServer:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class KeyHandler(BaseHTTPRequestHandler):
    """Answers with the keys."""

    server: KeyServer

    def do_GET(self) -> None:
        self.server.asked += 1
        body = json.dumps({"keys": [*self.server.more, *self.server.keys]}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass
