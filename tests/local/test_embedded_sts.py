"""STS answers for signatures that hold, and refuses the others as AWS does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, quote, urlsplit
from xml.etree import ElementTree

import boto3
import pytest
import requests
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from callers import Keys, client, role, session, user
from conftest import Stack
from conftest import role as role_resource

from local.aws import ACCESS_KEY, ACCOUNT, SECRET_KEY, EmbeddedAws

QUERY = "Action=GetCallerIdentity&Version=2011-06-15"
SERVER_ID = "x-mlflow-server-id"
NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass(frozen=True)
class Presigned:
    """A signed GET, taken apart so that each part can be spoilt."""

    pairs: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]

    def query(self, **values: str | None) -> Presigned:
        """With other values in the query; None takes one out."""
        names = {name.replace("_", "-"): value for name, value in values.items()}
        kept = tuple((key, names.get(key, value)) for key, value in self.pairs)
        return replace(self, pairs=tuple((key, value) for key, value in kept if value is not None))

    def more(self, *pairs: tuple[str, str]) -> Presigned:
        """With more in the query."""
        return replace(self, pairs=(*self.pairs, *pairs))

    def header(self, name: str, value: str | None) -> Presigned:
        """With another header."""
        kept = {**dict(self.headers), name: value}
        return replace(self, headers=tuple((key, text) for key, text in kept.items() if text is not None))

    def send(self, aws: EmbeddedAws) -> requests.Response:
        """Send it as the server does: to loopback, with the host that was signed."""
        query = "&".join(
            f"{quote(key, safe='-_.~')}={quote(value, safe='-_.~')}" for key, value in self.pairs
        )
        return requests.get(f"{aws.endpoint}/?{query}", headers=dict(self.headers), timeout=10)


def presign(
    keys: Keys,
    *,
    region: str = "eu-central-1",
    at: datetime | None = None,
    signed: dict[str, str] | None = None,
    service: str = "sts",
    expires: int = 60,
) -> Presigned:
    """What the kit's client signs."""
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    host = f"sts.{region}.{suffix}"
    headers = {"host": host, SERVER_ID: "mlflow.example.com"} if signed is None else signed
    request = AWSRequest("GET", f"https://{host}/?{QUERY}", headers=headers)
    credentials = Credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys.get("SessionToken"))
    with pytest.MonkeyPatch.context() as patch:
        if at is not None:
            patch.setattr("botocore.auth.get_current_datetime", lambda: at)
        SigV4QueryAuth(credentials, service, region, expires=expires).add_auth(request)
    pairs = parse_qsl(urlsplit(request.url).query, keep_blank_values=True)
    return Presigned(tuple(pairs), (("Host", host), *((k, v) for k, v in headers.items() if k != "host")))


@pytest.fixture(scope="module")
def alice(aws: EmbeddedAws) -> Keys:
    """A user with a path."""
    return user(aws, "alice", path="/team/")[1]


@pytest.fixture(scope="module")
def visitor(aws: EmbeddedAws) -> Keys:
    """A session of a role with a path."""
    return session(aws, role(aws, "visitor", Path="/kit/"), "v@example.com")


def refusal(answer: requests.Response) -> tuple[int, str, str]:
    """Status, code and message of a refusal of the right form."""
    assert answer.headers["Content-Type"] == "text/xml"
    root = ElementTree.fromstring(answer.content)  # noqa: S314 - of our own
    assert root.tag == f"{{{NAMESPACE}}}ErrorResponse"
    found = {item.tag.rpartition("}")[2]: item.text or "" for item in root.iter()}
    assert found["Type"] == "Sender"
    return answer.status_code, found["Code"], found["Message"]


def identity(answer: requests.Response) -> tuple[str, str]:
    """ARN and unique id of an answer of the right form."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/xml"), answer.text
    root = ElementTree.fromstring(answer.content)  # noqa: S314 - of our own
    assert root.tag == f"{{{NAMESPACE}}}GetCallerIdentityResponse"
    found = {item.tag: item.text or "" for item in root.iter()}
    assert found[f"{{{NAMESPACE}}}Account"] == ACCOUNT
    return found[f"{{{NAMESPACE}}}Arn"], found[f"{{{NAMESPACE}}}UserId"]


# --- accepted


def test_user_is_who_signed(aws: EmbeddedAws, alice: Keys) -> None:
    arn, user_id = identity(presign(alice).send(aws))
    assert arn == f"arn:aws:iam::{ACCOUNT}:user/team/alice"
    assert user_id == aws.client("iam").get_user(UserName="alice")["User"]["UserId"]
    assert user_id.startswith("AIDA")


def test_session_is_who_signed(aws: EmbeddedAws, visitor: Keys) -> None:
    arn, user_id = identity(presign(visitor).send(aws))
    assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/visitor/v@example.com"  # which has no path
    role_id = aws.client("iam").get_role(RoleName="visitor")["Role"]["RoleId"]
    assert user_id == f"{role_id}:v@example.com"
    assert role_id.startswith("AROA")


def test_operator_is_the_root(aws: EmbeddedAws) -> None:
    answer = aws.client("sts").get_caller_identity()
    assert (answer["Arn"], answer["UserId"]) == (f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT)


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "ap-southeast-7"])
def test_any_region_of_the_partition_vouches(aws: EmbeddedAws, alice: Keys, region: str) -> None:
    identity(presign(alice, region=region).send(aws))


@pytest.mark.parametrize("region", ["cn-north-1", "us-gov-west-1"])
def test_other_partitions_do_not_know_the_key(aws: EmbeddedAws, alice: Keys, region: str) -> None:
    assert refusal(presign(alice, region=region).send(aws))[:2] == (403, "InvalidClientTokenId")


def test_header_signature_is_accepted(aws: EmbeddedAws, alice: Keys, visitor: Keys) -> None:
    for keys, end in ((alice, ":user/team/alice"), (visitor, ":assumed-role/visitor/v@example.com")):
        assert client(aws, "sts", keys).get_caller_identity()["Arn"].endswith(end)


def test_url_that_botocore_presigns_is_accepted(aws: EmbeddedAws, visitor: Keys) -> None:
    url = client(aws, "sts", visitor).generate_presigned_url("get_caller_identity", HttpMethod="GET")
    identity(requests.get(url, timeout=10))


def test_short_expiry_is_ignored(aws: EmbeddedAws, alice: Keys) -> None:
    earlier = datetime.now(timezone.utc) - timedelta(minutes=14)
    identity(presign(alice, at=earlier, expires=1).send(aws))


# --- refused


def minutes(number: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(minutes=number)


SPOILT: dict[str, tuple[Callable[[Keys], Presigned], int, str, str]] = {
    "unknown key": (
        lambda keys: presign({**keys, "AccessKeyId": "AKIAAAAAAAAAAAAAAAAA"}),
        403,
        "InvalidClientTokenId",
        "The security token included in the request is invalid",
    ),
    "wrong secret": (
        lambda keys: presign({**keys, "SecretAccessKey": "guessed"}),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "other signature": (
        lambda keys: presign(keys).query(X_Amz_Signature="0" * 64),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "meant for another server": (
        lambda keys: presign(keys).header(SERVER_ID, "evil.example.com"),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "signed header is missing": (
        lambda keys: presign(keys).header(SERVER_ID, None),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "signed header is not named": (
        lambda keys: presign(keys).query(X_Amz_SignedHeaders="host"),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "stretched expiry": (
        lambda keys: presign(keys).query(X_Amz_Expires="900"),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "other action": (
        lambda keys: presign(keys).query(Action="AssumeRole"),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "parameter that was not signed": (
        lambda keys: presign(keys).more(("action", "GetSessionToken")),
        403,
        "SignatureDoesNotMatch",
        "does not match the signature you provided",
    ),
    "too old": (
        lambda keys: presign(keys, at=minutes(-15.5)),
        403,
        "SignatureDoesNotMatch",
        "Signature expired: ",
    ),
    "from the future": (
        lambda keys: presign(keys, at=minutes(5.5)),
        403,
        "SignatureDoesNotMatch",
        "Signature not yet current: ",
    ),
    "refreshed date": (
        lambda keys: presign(keys, at=minutes(-20)).query(X_Amz_Date=minutes(0).strftime("%Y%m%dT%H%M%SZ")),
        403,
        "SignatureDoesNotMatch",
        "",
    ),
    "no date": (
        lambda keys: presign(keys).query(X_Amz_Date="yesterday"),
        400,
        "IncompleteSignature",
        "Date must be in ISO-8601 'basic format'. Got 'yesterday'",
    ),
    "other region's host": (
        lambda keys: presign(keys).header("Host", "sts.us-east-1.amazonaws.com"),
        403,
        "SignatureDoesNotMatch",
        "Credential should be scoped to a valid region.",
    ),
    "global host": (
        lambda keys: presign(keys).header("Host", "sts.amazonaws.com"),
        403,
        "SignatureDoesNotMatch",
        "Credential should be scoped to a valid region.",
    ),
    "other service": (
        lambda keys: presign(keys, service="s3"),
        403,
        "SignatureDoesNotMatch",
        "Credential should be scoped to correct service: 'sts'.",
    ),
    "scope of another day": (
        lambda keys: presign(keys).query(
            X_Amz_Credential=f"{keys['AccessKeyId']}/20200101/eu-central-1/sts/aws4_request"
        ),
        403,
        "SignatureDoesNotMatch",
        "Date in Credential scope does not match",
    ),
    "other terminator": (
        lambda keys: presign(keys).query(
            X_Amz_Credential=f"{keys['AccessKeyId']}/{minutes(0):%Y%m%d}/eu-central-1/sts/aws5_request"
        ),
        403,
        "SignatureDoesNotMatch",
        "Credential should be scoped with a valid terminator",
    ),
    "scope of too few parts": (
        lambda keys: presign(keys).query(X_Amz_Credential=f"{keys['AccessKeyId']}/sts"),
        400,
        "IncompleteSignature",
        "Credential must have exactly 5 slash-delimited elements",
    ),
    "other algorithm": (
        lambda keys: presign(keys).query(X_Amz_Algorithm="AWS4-HMAC-SHA1"),
        400,
        "IncompleteSignature",
        "Unsupported AWS 'algorithm'",
    ),
    "half a signature": (
        lambda keys: presign(keys).query(X_Amz_Signature=None),
        400,
        "IncompleteSignature",
        "AWS query-string parameters must include 'X-Amz-Signature'",
    ),
    "no signature": (
        lambda keys: Presigned(tuple(parse_qsl(QUERY)), (("Host", "sts.eu-central-1.amazonaws.com"),)),
        403,
        "MissingAuthenticationToken",
        "Request is missing Authentication Token",
    ),
    "two signatures": (
        lambda keys: presign(keys).header("Authorization", "AWS4-HMAC-SHA256 Credential=a"),
        403,
        "SignatureDoesNotMatch",
        "Found both 'X-Amz-Algorithm' as a query-string param and 'Authorization' as HTTP header.",
    ),
    "host is not signed": (
        lambda keys: presign(keys).query(X_Amz_SignedHeaders=SERVER_ID),
        403,
        "SignatureDoesNotMatch",
        "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
    ),
    "action twice": (
        lambda keys: presign(keys).more(("Action", "AssumeRole")),
        400,
        "MalformedQueryString",
        "Action",
    ),
    "key twice": (
        lambda keys: presign(keys).more(("X-Amz-Credential", "b/20200101/eu-central-1/sts/aws4_request")),
        400,
        "MalformedQueryString",
        "X-Amz-Credential",
    ),
    "no operation": (
        lambda keys: presign(keys).query(Action=None),
        400,
        "InvalidAction",
        "Could not find operation",
    ),
    "token with a user's key": (
        lambda keys: presign({**keys, "SessionToken": "dG9rZW4="}),
        403,
        "InvalidClientTokenId",
        "The security token included in the request is invalid",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_request_is_refused(aws: EmbeddedAws, alice: Keys, case: str) -> None:
    make, status, code, message = SPOILT[case]
    found = refusal(make(alice).send(aws))
    assert found[:2] == (status, code)
    assert message in found[2]


@pytest.mark.parametrize("token", [None, "dG9rZW4="])
def test_session_needs_its_own_token(aws: EmbeddedAws, visitor: Keys, token: str | None) -> None:
    found = refusal(presign({**visitor, "SessionToken": token}).send(aws))
    assert found[:2] == (403, "InvalidClientTokenId")


def test_token_cannot_be_taken_from_another_session(aws: EmbeddedAws, visitor: Keys) -> None:
    other = session(aws, f"arn:aws:iam::{ACCOUNT}:role/kit/visitor", "other")
    mixed = {**visitor, "SessionToken": other["SessionToken"]}
    assert refusal(presign(mixed).send(aws))[:2] == (403, "InvalidClientTokenId")


def test_session_ends(aws: EmbeddedAws, visitor: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    later = datetime.now(timezone.utc) + timedelta(minutes=61)
    signed = presign(visitor, at=later)
    monkeypatch.setattr(aws.sts.signatures, "clock", lambda: later)
    status, code, message = refusal(signed.send(aws))
    assert (status, code) == (403, "ExpiredToken")
    assert message == "The security token included in the request is expired"


def test_key_that_is_not_in_use_is_unknown(aws: EmbeddedAws) -> None:
    _, keys = user(aws, "leaving")
    iam, name = aws.client("iam"), {"UserName": "leaving", "AccessKeyId": keys["AccessKeyId"]}
    identity(presign(keys).send(aws))
    iam.update_access_key(**name, Status="Inactive")
    assert refusal(presign(keys).send(aws))[:2] == (403, "InvalidClientTokenId")
    iam.update_access_key(**name, Status="Active")
    identity(presign(keys).send(aws))
    iam.delete_access_key(**name)
    assert refusal(presign(keys).send(aws))[:2] == (403, "InvalidClientTokenId")


def test_operators_key_needs_its_secret(aws: EmbeddedAws) -> None:
    keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}
    client(aws, "sts", keys).get_caller_identity()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client(aws, "sts", {**keys, "SecretAccessKey": "any"}).get_caller_identity()


def test_body_is_signed(aws: EmbeddedAws, alice: Keys) -> None:
    body = f"{QUERY}&Extra=no"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = AWSRequest("POST", f"{aws.endpoint}/", data=body, headers=headers)
    credentials = Credentials(alice["AccessKeyId"], alice["SecretAccessKey"])
    SigV4Auth(credentials, "sts", "eu-central-1").add_auth(request)
    sent = dict(request.headers)
    identity(requests.post(aws.endpoint, data=body, headers=sent, timeout=10))
    other = requests.post(aws.endpoint, data=body.replace("no", "yes"), headers=sent, timeout=10)
    assert refusal(other)[:2] == (403, "SignatureDoesNotMatch")


def test_other_services_believe_the_key(aws: EmbeddedAws) -> None:
    # only STS checks signatures; but a key of AWS's form has to be one that is in use
    unknown = {"AccessKeyId": "AKIAAAAAAAAAAAAAAAAA", "SecretAccessKey": "any"}
    for service, operation, code in (
        ("iam", "list_users", "InvalidClientTokenId"),
        ("ecs", "list_clusters", "UnrecognizedClientException"),
        ("s3", "list_buckets", "InvalidAccessKeyId"),
    ):
        with pytest.raises(ClientError, match=code):
            getattr(client(aws, service, unknown), operation)()
    anybody = boto3.client(
        "iam",
        region_name=aws.region,
        endpoint_url=aws.endpoint,
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    anybody.list_users()


# --- unique ids


def test_role_that_is_made_again_is_another(aws: EmbeddedAws) -> None:
    iam = aws.client("iam")
    arn = role(aws, "again", {"Effect": "Allow", "Action": "*", "Resource": "*"})
    old = session(aws, arn)
    before = identity(presign(old).send(aws))[1]
    iam.delete_role_policy(RoleName="again", PolicyName="own")
    iam.delete_role(RoleName="again")
    role(aws, "again", {"Effect": "Allow", "Action": "*", "Resource": "*"})
    assert identity(presign(session(aws, arn)).send(aws))[1] != before
    assert identity(presign(old).send(aws))[1] == before  # a session stays what it was
    with pytest.raises(ClientError, match="is not authorized to perform"):
        client(aws, "s3", old).list_buckets()


def test_role_of_a_stack_has_its_id(aws: EmbeddedAws, stack: Stack) -> None:
    resource = role_resource("ecs-tasks.amazonaws.com", RoleName="stacked", Path="/kit/")
    outputs = {"Id": {"Value": {"Fn::GetAtt": ["Role", "RoleId"]}}}
    assert stack.create({"Role": resource}, Outputs=outputs) == "CREATE_COMPLETE"
    first = stack.outputs()["Id"]
    found = aws.client("iam").get_role(RoleName="stacked")["Role"]
    assert found["RoleId"] == first
    assert found["Arn"] == f"arn:aws:iam::{ACCOUNT}:role/kit/stacked"
    assert first.startswith("AROA")
    assert len(first) == 21
    stack.delete()
    assert stack.create({"Role": resource}, Outputs=outputs) == "CREATE_COMPLETE"
    assert stack.outputs()["Id"] != first


# --- what tests of clients ask for


def test_calls_are_counted_and_throttled(aws: EmbeddedAws, alice: Keys) -> None:
    before = aws.calls["sts", "GetCallerIdentity"]
    aws.throttle("sts", "GetCallerIdentity", times=2)
    for _ in range(2):
        assert refusal(presign(alice).send(aws)) == (400, "Throttling", "Rate exceeded")
    identity(presign(alice).send(aws))
    aws.fail("sts", "GetCallerIdentity", times=1, code="ServiceUnavailable", status=503)
    assert presign(alice).send(aws).status_code == 503
    identity(presign(alice).send(aws))
    assert aws.calls["sts", "GetCallerIdentity"] - before == 5
    assert aws.calls["sts", "NoSuchOperation"] == 0


def test_what_is_not_signed_is_refused_too(aws: EmbeddedAws) -> None:
    answers = [requests.get(f"{aws.endpoint}/?{QUERY}", timeout=10)]
    answers.append(
        requests.get(f"{aws.endpoint}/", headers={"Host": "sts.eu-central-1.amazonaws.com"}, timeout=10)
    )
    assert [refusal(answer)[1] for answer in answers] == ["MissingAuthenticationToken", "InvalidAction"]
