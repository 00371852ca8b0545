"""AssumeRole asks the trust policy and the caller's own; and the sessions and users are held to what they have."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
import requests
from botocore.exceptions import ClientError
from callers import (
    ROOT,
    SERVER,
    Keys,
    Statement,
    allow,
    client,
    deny,
    document,
    kit_policy,
    role,
    session,
    trusting,
    user,
)
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from local.aws import ACCOUNT, EmbeddedAws

MAY = allow("sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession")
_numbers = itertools.count()


def new(kind: str) -> str:
    """A name that no other test has."""
    return f"{kind}-{next(_numbers)}"


def assume(aws: EmbeddedAws, keys: Keys, role_arn: str, name: str = "me", **more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client(aws, "sts", keys).assume_role(
        RoleArn=role_arn, RoleSessionName=name, **more
    )
    return answer


def assumes(aws: EmbeddedAws, keys: Keys, role_arn: str, **more: Any) -> bool:
    """Whether STS gives a session."""
    try:
        assume(aws, keys, role_arn, **more)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


# --- who is trusted


def test_account_decides_where_the_account_is_trusted(aws: EmbeddedAws) -> None:
    target = role(aws, new("role"))
    arn, keys = user(aws, new("user"))
    with pytest.raises(ClientError) as error:
        assume(aws, keys, target)
    assert error.value.response["Error"]["Code"] == "AccessDenied"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert error.value.response["Error"]["Message"] == (
        f"User: {arn} is not authorized to perform: sts:AssumeRole on resource: {target}"
    )
    assert assumes(aws, user(aws, new("user"), allow("sts:AssumeRole", on=target))[1], target)
    assert not assumes(aws, user(aws, new("user"), allow("sts:AssumeRole", on=f"{target}x"))[1], target)
    assert not assumes(aws, user(aws, new("user"), MAY, deny("sts:*", on=target))[1], target)


@pytest.mark.parametrize("written", [ROOT, ACCOUNT])
def test_account_is_written_in_two_ways(aws: EmbeddedAws, written: str) -> None:
    target = role(aws, new("role"), trust=[trusting({"AWS": written})])
    assert assumes(aws, user(aws, new("user"), MAY)[1], target)


def test_who_is_named_needs_no_policy(aws: EmbeddedAws) -> None:
    arn, keys = user(aws, new("user"), path="/team/")
    named = role(aws, new("role"), trust=[trusting({"AWS": [arn, f"{ROOT[:-4]}user/nobody"]})])
    assert assumes(aws, keys, named)
    assert not assumes(aws, user(aws, new("user"), MAY)[1], named)  # others do, and are not named
    denied = user(aws, new("user"), deny("sts:AssumeRole"))
    assert not assumes(aws, denied[1], role(aws, new("role"), trust=[trusting({"AWS": denied[0]})]))


def test_role_and_session_are_named(aws: EmbeddedAws) -> None:
    first = role(aws, new("role"))
    keys = session(aws, first, "worker")
    assert assumes(aws, keys, role(aws, new("role"), trust=[trusting({"AWS": first})]))
    worker = first.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/worker"
    by_session = role(aws, new("role"), trust=[trusting({"AWS": worker})])
    assert assumes(aws, keys, by_session)
    assert not assumes(aws, session(aws, first, "other"), by_session)


@pytest.mark.parametrize(
    "trust",
    [
        [],
        [trusting({"Service": "ecs-tasks.amazonaws.com"})],
        [trusting({"AWS": "arn:aws:iam::999999999999:root"})],
        [trusting(action="sts:AssumeRoleWithWebIdentity")],
        [trusting(), {**trusting({"AWS": ROOT}), "Effect": "Deny"}],
        [trusting(), {**trusting("*"), "Effect": "Deny"}],
    ],
)
def test_others_are_not_trusted(aws: EmbeddedAws, trust: list[Statement]) -> None:
    assert not assumes(aws, user(aws, new("user"), MAY)[1], role(aws, new("role"), trust=trust))


def test_role_that_does_not_exist_is_denied_like_any(aws: EmbeddedAws) -> None:
    _, keys = user(aws, new("user"), MAY)
    name = new("role")
    role(aws, name, Path="/kit/")
    assert assumes(aws, keys, f"arn:aws:iam::{ACCOUNT}:role/kit/{name}")
    for wrong in (f"role/{name}", f"role/other/{name}", "role/nobody", "user/nobody"):
        assert not assumes(aws, keys, f"arn:aws:iam::{ACCOUNT}:{wrong}")


def test_boundary_limits_assumption(aws: EmbeddedAws) -> None:
    name = new("user")
    _, keys = user(aws, name, MAY)
    target = role(aws, new("role"))
    iam = aws.client("iam")
    boundary = iam.create_policy(PolicyName=name, PolicyDocument=document(allow("s3:*")))["Policy"]["Arn"]
    iam.put_user_permissions_boundary(UserName=name, PermissionsBoundary=boundary)
    assert iam.get_user(UserName=name)["User"]["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
    assert not assumes(aws, keys, target)
    iam.delete_user_permissions_boundary(UserName=name)
    assert assumes(aws, keys, target)


# --- conditions


@pytest.fixture(scope="module")
def me_user(aws: EmbeddedAws) -> Keys:
    """A user with a tag, who may assume every role."""
    _, keys = user(aws, "me-user", MAY)
    aws.client("iam").tag_user(UserName="me-user", Tags=[{"Key": "Team", "Value": "green"}])
    return keys


@pytest.mark.parametrize(
    ("condition", "met", "unmet"),
    [
        ({"StringEquals": {"sts:ExternalId": "42"}}, {"ExternalId": "42"}, {"ExternalId": "43"}),
        ({"StringLike": {"sts:RoleSessionName": "a*"}}, {"name": "ann"}, {"name": "bob"}),
        ({"StringLike": {"sts:SourceIdentity": "?*"}}, {"SourceIdentity": "ann"}, {}),
        (
            {"StringEquals": {"sts:RoleSessionName": "${aws:username}"}},
            {"name": "me-user"},
            {"name": "you-user"},
        ),
        ({"Bool": {"aws:SecureTransport": "true"}}, {}, None),
        ({"Bool": {"aws:MultiFactorAuthPresent": "true"}}, None, {}),
        ({"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}, {}, None),
        ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, {}, None),
        ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, None, {}),
        ({"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{ACCOUNT}:user/*"}}, {}, None),
        ({"StringEquals": {"aws:PrincipalTag/Team": "green"}}, {}, None),
        ({"StringEquals": {"aws:PrincipalTag/Team": "red"}}, None, {}),
    ],
)
def test_conditions_of_the_trust_policy(
    aws: EmbeddedAws,
    me_user: Keys,
    condition: dict[str, Any],
    met: dict[str, Any] | None,
    unmet: dict[str, Any] | None,
) -> None:
    action = ["sts:AssumeRole", "sts:SetSourceIdentity"]
    target = role(aws, new("role"), trust=[trusting(action=action, Condition=condition)])
    if met is not None:
        assert assumes(aws, me_user, target, **met)
    if unmet is not None:
        assert not assumes(aws, me_user, target, **unmet)


def test_organization_is_a_condition(aws: EmbeddedAws) -> None:
    condition = {"StringEquals": {"aws:PrincipalOrgID": "o-other"}}
    other = role(aws, new("role"), trust=[trusting(Condition=condition)])
    _, keys = user(aws, new("user"), MAY)
    assert not assumes(aws, keys, other)
    organization = aws.client("organizations").create_organization()["Organization"]["Id"]
    condition = {"StringEquals": {"aws:PrincipalOrgID": organization}}
    assert assumes(aws, keys, role(aws, new("role"), trust=[trusting(Condition=condition)]))
    assert not assumes(aws, keys, other)


# --- what comes with a session


def test_source_identity_needs_to_be_allowed_and_stays(aws: EmbeddedAws) -> None:
    actions = ["sts:AssumeRole", "sts:SetSourceIdentity"]
    plain, settable = role(aws, new("role")), role(aws, new("role"), MAY, trust=[trusting(action=actions)])
    _, keys = user(aws, new("user"), MAY)
    with pytest.raises(ClientError, match="not authorized to perform: sts:SetSourceIdentity"):
        assume(aws, keys, plain, SourceIdentity="ann")
    answer = assume(aws, keys, settable, SourceIdentity="ann")
    assert answer["SourceIdentity"] == "ann"
    chained = assume(aws, answer["Credentials"], settable)
    assert chained["SourceIdentity"] == "ann"
    assert not assumes(aws, answer["Credentials"], plain)  # which may not take the identity over
    with pytest.raises(ClientError, match="cannot be changed"):
        assume(aws, answer["Credentials"], settable, SourceIdentity="bob")


def test_tags_of_a_session_count(aws: EmbeddedAws) -> None:
    team = {"StringEquals": {"aws:PrincipalTag/team": "green"}}
    statement = allow("s3:ListAllMyBuckets", Condition=team)
    target = role(aws, new("role"), statement, trust=[trusting(action=["sts:AssumeRole", "sts:TagSession"])])
    _, keys = user(aws, new("user"), MAY)
    green = assume(aws, keys, target, Tags=[{"Key": "team", "Value": "green"}])["Credentials"]
    client(aws, "s3", green).list_buckets()
    with pytest.raises(ClientError, match="AccessDenied"):
        client(aws, "s3", assume(aws, keys, target)["Credentials"]).list_buckets()
    with pytest.raises(ClientError, match="sts:TagSession"):
        assume(aws, keys, role(aws, new("role")), Tags=[{"Key": "team", "Value": "green"}])


def test_duration_has_limits(aws: EmbeddedAws) -> None:
    hours, usual = role(aws, new("role"), MAY, MaxSessionDuration=7200), role(aws, new("role"))
    _, keys = user(aws, new("user"), MAY)
    answer = assume(aws, keys, hours, DurationSeconds=7200)
    assert 7100 < answer["Credentials"]["Expiration"].timestamp() - time.time() <= 7201
    with pytest.raises(ClientError, match="exceeds the MaxSessionDuration set for this role"):
        assume(aws, keys, usual, DurationSeconds=3601)
    with pytest.raises(ClientError, match="1 hour session limit for roles assumed by role chaining"):
        assume(aws, answer["Credentials"], hours, DurationSeconds=3601)
    with pytest.raises(ClientError, match="greater than or equal to 900"):
        assume(aws, keys, usual, DurationSeconds=899)


@pytest.mark.parametrize("name", ["x", "a b", "a/b", "a" * 65])
def test_session_names_have_a_form(aws: EmbeddedAws, name: str) -> None:
    with pytest.raises(ClientError, match="ValidationError"):
        assume(aws, user(aws, new("user"), MAY)[1], role(aws, new("role")), name)


def test_session_policy_limits(aws: EmbeddedAws) -> None:
    target = role(aws, new("role"), allow("*"))
    _, keys = user(aws, new("user"), MAY)
    some = assume(aws, keys, target, Policy=document(allow("s3:*")))["Credentials"]
    client(aws, "s3", some).list_buckets()
    with pytest.raises(ClientError, match="no session policy allows the ecs:ListClusters action"):
        client(aws, "ecs", some).list_clusters()
    client(aws, "ecs", assume(aws, keys, target)["Credentials"]).list_clusters()


def test_sessions_that_nothing_here_knows_are_not_made(aws: EmbeddedAws) -> None:
    _, keys = user(aws, new("user"), allow("*"))
    with pytest.raises(ClientError, match="NotImplemented"):
        client(aws, "sts", keys).get_session_token()


# --- users


def test_users_are_held_to_their_policies(aws: EmbeddedAws) -> None:
    name = new("user")
    arn, keys = user(aws, name)
    s3, iam = client(aws, "s3", keys), aws.client("iam")
    with pytest.raises(ClientError, match=f"User: {arn} is not authorized to perform: s3:ListAllMyBuckets"):
        s3.list_buckets()
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document(allow("s3:List*")))
    s3.list_buckets()
    iam.delete_user_policy(UserName=name, PolicyName="p")
    iam.create_group(GroupName=name)
    iam.put_group_policy(GroupName=name, PolicyName="p", PolicyDocument=document(allow("s3:List*")))
    iam.add_user_to_group(GroupName=name, UserName=name)
    s3.list_buckets()
    iam.remove_user_from_group(GroupName=name, UserName=name)
    iam.attach_user_policy(UserName=name, PolicyArn="arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
    s3.list_buckets()
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.create_bucket(Bucket=f"of-{name}", CreateBucketConfiguration={"LocationConstraint": aws.region})


def test_iam_calls_are_about_the_real_path(aws: EmbeddedAws) -> None:
    name = new("role")
    arn = role(aws, name, Path="/kit/")
    simulate = {"PolicySourceArn": arn, "ActionNames": ["s3:GetObject"]}

    def calls(resource: str) -> list[bool]:
        _, keys = user(aws, new("user"), allow("iam:GetRole", "iam:SimulatePrincipalPolicy", on=resource))
        iam = client(aws, "iam", keys)
        done = []
        for call in (lambda: iam.get_role(RoleName=name), lambda: iam.simulate_principal_policy(**simulate)):
            try:
                call()
                done.append(True)
            except iam.exceptions.ClientError:
                done.append(False)
        return done

    assert calls(arn) == [True, True]
    assert calls(f"arn:aws:iam::{ACCOUNT}:role/*") == [True, True]
    assert calls(f"arn:aws:iam::{ACCOUNT}:role/{name}") == [False, False]
    assert calls(f"arn:aws:iam::{ACCOUNT}:user/*") == [False, False]


def test_user_may_ask_about_itself(aws: EmbeddedAws) -> None:
    name = new("user")
    _, keys = user(
        aws,
        name,
        allow("iam:GetUser", on=f"arn:aws:iam::{ACCOUNT}:user/team/${{aws:username}}"),
        path="/team/",
    )
    iam = client(aws, "iam", keys)
    assert iam.get_user()["User"]["UserName"] == name
    assert iam.get_user(UserName=name)["User"]["Path"] == "/team/"
    with pytest.raises(ClientError, match="AccessDenied"):
        iam.get_user(UserName="other")


def test_role_of_the_kit_may_be_assumed_and_used(aws: EmbeddedAws) -> None:
    # as the access stack makes it: a managed policy, and a trust in the account
    iam = aws.client("iam")
    text = kit_policy("reader")
    policy = iam.create_policy(PolicyName=new("policy"), PolicyDocument=text)["Policy"]["Arn"]
    actions = ["sts:AssumeRole", "sts:SetSourceIdentity"]
    name = new("Reader")
    target = role(aws, name, trust=[trusting(action=actions)], MaxSessionDuration=43200)
    iam.attach_role_policy(RoleName=name, PolicyArn=policy)
    _, keys = user(aws, new("user"), allow(*actions, on=target))
    answer = assume(aws, keys, target, SourceIdentity="ann", DurationSeconds=43200)
    arn = client(aws, "sts", answer["Credentials"]).get_caller_identity()["Arn"]
    assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/{name}/me"
    results = iam.simulate_principal_policy(
        PolicySourceArn=target,
        ActionNames=["sagemaker-mlflow:GetRun", "sagemaker-mlflow:CreateRun"],
        ResourceArns=[SERVER],
    )["EvaluationResults"]
    assert [item["EvalDecision"] for item in results] == ["allowed", "implicitDeny"]


# --- tokens of others


class Issuer:
    """An OIDC provider on loopback, as a CI system has one."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer.documents().get(self.path, {})).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def documents(self) -> dict[str, Any]:
        jwk = RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True) | {"kid": "1"}
        return {
            "/.well-known/openid-configuration": {"jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [jwk]},
        }

    def token(self, *, key: Any = None, **claims: Any) -> str:
        now = int(time.time())
        usual = {"iss": self.url, "aud": "sts.amazonaws.com", "sub": "repo:a/b", "iat": now, "exp": now + 60}
        return jwt.encode({**usual, **claims}, key or self.key, "RS256", headers={"kid": "1"})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def ci_role(aws: EmbeddedAws, issuer: Issuer) -> str:
    provider = aws.client("iam").create_open_id_connect_provider(
        Url=issuer.url, ClientIDList=["sts.amazonaws.com"], ThumbprintList=["0" * 40]
    )["OpenIDConnectProviderArn"]
    name = issuer.url.partition("://")[2]
    condition = {
        "StringEquals": {f"{name}:aud": "sts.amazonaws.com"},
        "StringLike": {f"{name}:sub": "repo:a/*"},
    }
    trust = trusting({"Federated": provider}, action="sts:AssumeRoleWithWebIdentity", Condition=condition)
    return role(aws, "ci", allow("s3:List*"), trust=[trust])


def trade(aws: EmbeddedAws, role_arn: str, token: str) -> dict[str, Any]:
    sts = client(aws, "sts", {"AccessKeyId": "", "SecretAccessKey": ""})
    answer: dict[str, Any] = sts.assume_role_with_web_identity(
        RoleArn=role_arn, RoleSessionName="ci", WebIdentityToken=token
    )
    return answer


def test_web_identity_is_traded_for_a_session(aws: EmbeddedAws, issuer: Issuer, ci_role: str) -> None:
    answer = trade(aws, ci_role, issuer.token())
    assert (answer["SubjectFromWebIdentityToken"], answer["Audience"]) == ("repo:a/b", "sts.amazonaws.com")
    keys = answer["Credentials"]
    assert client(aws, "sts", keys).get_caller_identity()["Arn"].endswith(":assumed-role/ci/ci")
    client(aws, "s3", keys).list_buckets()


def test_other_web_identities_are_refused(aws: EmbeddedAws, issuer: Issuer, ci_role: str) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    past = int(time.time()) - 600
    cases = {
        "AccessDenied": [issuer.token(sub="repo:b/c")],
        "ExpiredToken": [issuer.token(iat=past, exp=past + 60)],
        "InvalidIdentityToken": [
            issuer.token(key=other),
            issuer.token(aud="other"),
            issuer.token(iss="https://other.example.com"),
            "a.b.c",
        ],
    }
    for code, tokens in cases.items():
        for token in tokens:
            with pytest.raises(ClientError, match=code):
                trade(aws, ci_role, token)
    with pytest.raises(ClientError, match="AccessDenied"):
        trade(aws, role(aws, new("role")), issuer.token())


# --- tokens of STS itself


def test_web_identity_token_states_the_caller(aws: EmbeddedAws) -> None:
    iam, target = aws.client("iam"), new("role")
    arn = role(
        aws, target, allow("sts:GetWebIdentityToken"), Path="/kit/", Tags=[{"Key": "team", "Value": "a"}]
    )
    sts = client(aws, "sts", session(aws, arn))
    ask = {"Audience": ["mlflow.example.com"], "SigningAlgorithm": "RS256"}
    with pytest.raises(ClientError) as error:
        sts.get_web_identity_token(**ask)
    assert error.value.response["Error"]["Code"] == "OutboundWebIdentityFederationDisabledException"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    with pytest.raises(iam.exceptions.FeatureDisabledException):
        iam.get_outbound_web_identity_federation_info()
    url = iam.enable_outbound_web_identity_federation()["IssuerIdentifier"]
    with pytest.raises(iam.exceptions.FeatureEnabledException):
        iam.enable_outbound_web_identity_federation()
    assert iam.get_outbound_web_identity_federation_info()["IssuerIdentifier"] == url
    discovery = requests.get(f"{url}/.well-known/openid-configuration", timeout=10).json()
    assert discovery["issuer"] == url
    keys = {key["kid"]: key for key in requests.get(discovery["jwks_uri"], timeout=10).json()["keys"]}
    assert not any("d" in key for key in keys.values())
    for algorithm in ("RS256", "ES384"):
        answer = sts.get_web_identity_token(**{**ask, "SigningAlgorithm": algorithm})
        token = answer["WebIdentityToken"]
        key = jwt.PyJWK(keys[jwt.get_unverified_header(token)["kid"]])
        claims = jwt.decode(token, key, [algorithm], audience="mlflow.example.com", issuer=url)
        assert claims["sub"] == arn
        assert claims["exp"] - claims["iat"] == 300
        assert answer["Expiration"].timestamp() == claims["exp"]
        own = claims["https://sts.amazonaws.com/"]
        assert (own["aws_account"], own["source_region"], own["principal_id"]) == (ACCOUNT, aws.region, arn)
        assert own["principal_tags"] == {"team": "a"}
    for wrong in ({"DurationSeconds": 59}, {"DurationSeconds": 3601}, {"SigningAlgorithm": "HS256"}):
        with pytest.raises(ClientError, match="ValidationError"):
            sts.get_web_identity_token(**{**ask, **wrong})
    iam.disable_outbound_web_identity_federation()
    with pytest.raises(ClientError, match="OutboundWebIdentityFederationDisabled"):
        sts.get_web_identity_token(**ask)


def test_audience_is_a_condition(aws: EmbeddedAws) -> None:
    aws.client("iam").enable_outbound_web_identity_federation()
    condition = {
        "ForAllValues:StringEquals": {"sts:IdentityTokenAudience": "here"},
        "NumericLessThanEquals": {"sts:DurationSeconds": "300"},
    }
    _, keys = user(aws, new("user"), allow("sts:GetWebIdentityToken", Condition=condition))
    sts = client(aws, "sts", keys)
    ask: dict[str, Any] = {"Audience": ["here"], "SigningAlgorithm": "ES384"}
    try:
        sts.get_web_identity_token(**ask)
        for wrong in (
            {"Audience": ["there"]},
            {"DurationSeconds": 301},
            {"Tags": [{"Key": "a", "Value": "b"}]},
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                sts.get_web_identity_token(**{**ask, **wrong})
        _, more = user(aws, new("user"), allow("sts:GetWebIdentityToken", "sts:TagGetWebIdentityToken"))
        answer = client(aws, "sts", more).get_web_identity_token(**ask, Tags=[{"Key": "a", "Value": "b"}])
        claims = jwt.decode(answer["WebIdentityToken"], options={"verify_signature": False})
        assert claims["https://sts.amazonaws.com/"]["request_tags"] == {"a": "b"}
    finally:
        aws.client("iam").disable_outbound_web_identity_federation()
