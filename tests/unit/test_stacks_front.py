"""Each front as it is synthesised: what it is called, who reaches it, and that nothing is public without TLS."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from synth import Resource, Synthesis, changed, flattened, of, synthesise

from stacks.environment_files import load, names

every_environment = pytest.mark.parametrize("name", names())


def variables(synthesis: Synthesis) -> dict[str, str]:
    """The environment of the server's container."""
    (found,) = [
        container
        for resource in synthesis.resources("AWS::ECS::TaskDefinition").values()
        for container in resource["Properties"]["ContainerDefinitions"]
        if container["Command"] == ["serve"]
    ]
    return {each["Name"]: flattened(each["Value"]) for each in found["Environment"]}


def listeners(synthesis: Synthesis) -> list[dict[str, Any]]:
    found = synthesis.resources("AWS::ElasticLoadBalancingV2::Listener").values()
    return [listener["Properties"] for listener in found]


def rules(synthesis: Synthesis) -> list[Resource]:
    found = synthesis.resources("AWS::EC2::SecurityGroupIngress").values()
    return [rule["Properties"] for rule in found]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dev", "cloudfront"),
        ("prod", "cloudfront"),
        ("local", "internal"),
        ("examples/private-only", "internal"),
        ("examples/china", "internal"),
        ("examples/govcloud", "internal"),
        ("examples/domain", "domain"),
    ],
)
def test_the_front_that_is_chosen_when_none_is_named(name: str, kind: str) -> None:
    assert load(name).front_kind == kind


@every_environment
def test_nothing_is_public_without_tls_and_the_gate(name: str) -> None:
    synthesis = synthesise(name)
    balancer = synthesis.the("AWS::ElasticLoadBalancingV2::LoadBalancer")
    public = balancer["Scheme"] == "internet-facing" or bool(
        synthesis.resources("AWS::CloudFront::Distribution")
    )
    assert public is (synthesis.environment.front_kind != "internal")
    if not public:
        return
    assert variables(synthesis)["ACCESS_ENGINE"] in ("iam", "roles")
    assert variables(synthesis)["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].startswith("https://")
    if balancer["Scheme"] == "internet-facing":
        assert {listener["Protocol"] for listener in listeners(synthesis)} == {"HTTPS", "HTTP"}
        (plain,) = [listener for listener in listeners(synthesis) if listener["Protocol"] == "HTTP"]
        assert plain["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"


@every_environment
def test_the_name_of_the_load_balancer_makes_a_host_name_that_browsers_keep(name: str) -> None:
    balancer = synthesise(name).the("AWS::ElasticLoadBalancingV2::LoadBalancer")
    assert re.fullmatch(r"(?!internal-)[a-z0-9-]{1,32}", balancer["Name"])


@every_environment
def test_what_two_could_read_in_two_ways_ends_at_the_load_balancer(name: str) -> None:
    balancer = synthesise(name).the("AWS::ElasticLoadBalancingV2::LoadBalancer")
    attributes = {each["Key"]: each["Value"] for each in balancer["LoadBalancerAttributes"]}
    assert attributes["routing.http.drop_invalid_header_fields.enabled"] == "true"
    assert attributes["routing.http.desync_mitigation_mode"] == "strictest"
    assert attributes["routing.http.xff_header_processing.mode"] == "append"


def test_an_internal_front_answers_to_every_name_it_is_given() -> None:
    plain = variables(synthesise("local"))
    balancer = re.search(r"<[^>]+>", plain["MLFLOW_SERVER_ALLOWED_HOSTS"]).group()  # type: ignore[union-attr]
    assert plain["MLFLOW_SERVER_ALLOWED_HOSTS"] == f"{balancer},{balancer}:*"
    assert plain["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == f"http://{balancer}:5050"

    named = variables(synthesise("examples/bring-your-own"))
    balancer = re.search(r"<[^>]+>", named["MLFLOW_SERVER_ALLOWED_HOSTS"]).group()  # type: ignore[union-attr]
    assert named["MLFLOW_SERVER_ALLOWED_HOSTS"] == (
        f"mlflow.example.com,mlflow.example.com:*,{balancer},{balancer}:*"
    )
    assert named["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == f"https://mlflow.example.com,https://{balancer}"

    other_port = of(changed(load("local"), front={"port": 8080}), directory="port-8080")
    origins = variables(other_port)["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]
    assert re.fullmatch(r"http://<[^>]+>:8080", origins)
    uri = other_port.templates["tracking-server"]["Outputs"]["TrackingUri"]["Value"]
    assert flattened(uri) == origins


def test_cloudfront_passes_everything_on_and_keeps_nothing() -> None:
    synthesis = synthesise("prod")
    config = synthesis.the("AWS::CloudFront::Distribution")["DistributionConfig"]
    behavior = config["DefaultCacheBehavior"]
    assert behavior["ViewerProtocolPolicy"] == "redirect-to-https"
    assert set(behavior["AllowedMethods"]) >= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    # the managed policies CachingDisabled and AllViewer:
    # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-cache-policies.html
    assert behavior["CachePolicyId"] == "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
    assert behavior["OriginRequestPolicyId"] == "216adef6-5c7f-47e4-b989-5492eafa07d3"
    assert synthesis.the("AWS::ElasticLoadBalancingV2::LoadBalancer")["Scheme"] == "internal"
    origin = synthesis.the("AWS::CloudFront::VpcOrigin")["VpcOriginEndpointConfig"]
    assert origin["OriginProtocolPolicy"] == "http-only"


def test_only_cloudfront_reaches_the_load_balancer_behind_it() -> None:
    synthesis = synthesise("prod")
    (lookup,) = synthesis.resources("Custom::VpcOriginSecurityGroup").values()
    assert "CloudFront-VPCOrigins-Service-SG" in json.dumps(lookup)
    to_balancer = [rule for rule in rules(synthesis) if rule["FromPort"] == 80]
    assert [rule["Description"] for rule in to_balancer if "CloudFront" in rule["Description"]]
    assert not [rule for rule in to_balancer if "CidrIp" in rule]


def test_the_server_answers_to_the_name_of_the_distribution_alone() -> None:
    told = variables(synthesise("prod"))
    domain = re.search(r"<[^>]+DomainName>", told["MLFLOW_SERVER_ALLOWED_HOSTS"]).group()  # type: ignore[union-attr]
    assert told["MLFLOW_SERVER_ALLOWED_HOSTS"] == f"{domain},{domain}:*"
    assert told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == f"https://{domain}"
    assert told["ACCESS_TRUSTED_PROXIES"] == "2"


def test_a_domain_front_has_a_certificate_and_records_of_its_names() -> None:
    synthesis = synthesise("examples/domain")
    front = synthesis.environment.front
    (https,) = [listener for listener in listeners(synthesis) if listener["Protocol"] == "HTTPS"]
    assert "TLS13" in https["SslPolicy"]
    assert https["Certificates"]
    records = synthesis.resources("AWS::Route53::RecordSet").values()
    assert {record["Properties"]["Name"] for record in records} == {
        f"{name}." for name in (front.domain_name, *front.host_names)
    }
    told = variables(synthesis)
    assert told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].startswith(f"https://{front.domain_name}")
    assert told["ACCESS_TRUSTED_PROXIES"] == "1"


def test_the_load_balancer_verifies_web_identity_tokens_when_told_to() -> None:
    issuer = "https://abc.tokens.sts.global.api.aws"
    access = {"web_identity_issuer": issuer, "web_identity_at_load_balancer": True}
    synthesis = of(changed(load("examples/domain"), access=access), directory="jwt")
    rule = synthesis.the("AWS::ElasticLoadBalancingV2::ListenerRule")
    assert rule["Conditions"][0]["HttpHeaderConfig"] == {
        "HttpHeaderName": "Authorization",
        "Values": ["Bearer eyJ*"],
    }
    assert [action["Type"] for action in rule["Actions"]] == ["jwt-validation", "forward"]
    assert variables(synthesis)["ACCESS_WEB_IDENTITY_ISSUER"] == issuer
