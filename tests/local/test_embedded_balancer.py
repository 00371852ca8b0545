"""Load balancers: what passes through them, and what they refuse."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError
from conftest import eventually

from local.aws import EmbeddedAws
from local.database import free_port

MEBIBYTE = 1024 * 1024


class Upstream(BaseHTTPRequestHandler):
    """Echoes headers, counts uploads, sends downloads, and is slow when asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            time.sleep(1)
        if self.path.startswith("/bytes/"):
            self.reply(b"x" * MEBIBYTE, int(self.path[7:]))
        elif self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/broken":
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.reply("\n".join([self.path, *(f"{k}: {v}" for k, v in self.headers.items())]).encode())

    def do_POST(self) -> None:
        total = 0
        if length := int(self.headers.get("Content-Length", 0)):
            while total < length:
                total += len(self.rfile.read(min(MEBIBYTE, length - total)))
        else:
            while size := int(self.rfile.readline(), 16):
                total += len(self.rfile.read(size))
                self.rfile.readline()
        self.reply(str(total).encode())

    def reply(self, body: bytes, times: int = 1) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) * times))
        self.end_headers()
        for _ in range(times):
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Front:
    """A listener and its target group."""

    def __init__(self, aws: EmbeddedAws) -> None:
        self.elbv2 = aws.client("elbv2")
        ec2 = aws.client("ec2")
        subnets = ec2.describe_subnets()["Subnets"][:2]
        self.balancer = self.elbv2.create_load_balancer(
            Name="front", Subnets=[subnet["SubnetId"] for subnet in subnets], Type="application"
        )["LoadBalancers"][0]
        self.group = self.elbv2.create_target_group(
            Name="targets",
            Protocol="HTTP",
            Port=1,
            VpcId=subnets[0]["VpcId"],
            TargetType="ip",
            HealthCheckPath="/health",
            HealthCheckIntervalSeconds=5,
        )["TargetGroups"][0]["TargetGroupArn"]
        self.elbv2.modify_target_group_attributes(
            TargetGroupArn=self.group,
            Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": "20"}],
        )
        self.port = free_port()
        self.listen(self.port)
        self.url = f"http://localhost:{self.port}"

    def listen(self, port: int, **arguments: Any) -> Any:
        return self.elbv2.create_listener(
            LoadBalancerArn=self.balancer["LoadBalancerArn"],
            Port=port,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": self.group}],
            **{"Protocol": "HTTP", **arguments},
        )

    def target(self, port: int) -> dict[str, Any]:
        return {"TargetGroupArn": self.group, "Targets": [{"Id": "127.0.0.1", "Port": port}]}

    def states(self) -> dict[int, str]:
        found = self.elbv2.describe_target_health(TargetGroupArn=self.group)["TargetHealthDescriptions"]
        return {item["Target"]["Port"]: item["TargetHealth"]["State"] for item in found}


@pytest.fixture(scope="module")
def front(aws: EmbeddedAws) -> Front:
    return Front(aws)


@pytest.fixture
def upstream(front: Front) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    front.elbv2.register_targets(**front.target(port))
    eventually(lambda: front.states().get(port) == "healthy")
    yield port
    front.elbv2.deregister_targets(**front.target(port))
    eventually(lambda: port not in front.states())
    server.shutdown()
    server.server_close()


def test_name_and_headers(front: Front, upstream: int) -> None:
    assert front.balancer["DNSName"] == "localhost"
    answer = requests.get(
        f"{front.url}/a%2Fb?x=%20y",
        headers={
            "Host": "mlflow.example.com:80",
            "X-Forwarded-For": "10.0.0.1",
            "Connection": "X-Hop",
            "X-Hop": "1",
        },
        timeout=10,
    )
    path, *headers = answer.text.split("\n")
    assert path == "/a%2Fb?x=%20y"
    assert "Host: mlflow.example.com:80" in headers
    assert "X-Forwarded-For: 10.0.0.1, 127.0.0.1" in headers
    assert "X-Forwarded-Proto: http" in headers
    assert f"X-Forwarded-Port: {front.port}" in headers
    assert "X-Hop" not in answer.text


def test_redirects_and_statuses_come_back_as_they_are(front: Front, upstream: int) -> None:
    answer = requests.get(f"{front.url}/redirect", allow_redirects=False, timeout=10)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/elsewhere")
    assert requests.get(f"{front.url}/broken", timeout=10).status_code == 502


def test_large_bodies_stream(front: Front, upstream: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b"x" * MEBIBYTE for _ in range(200))

    assert requests.post(f"{front.url}/", data=chunks(), timeout=60).text == str(200 * MEBIBYTE)
    assert requests.post(f"{front.url}/", data=b"x" * MEBIBYTE, timeout=60).text == str(MEBIBYTE)
    with requests.get(f"{front.url}/bytes/200", stream=True, timeout=60) as answer:
        assert answer.headers["Content-Length"] == str(200 * MEBIBYTE)
        assert sum(len(chunk) for chunk in answer.iter_content(MEBIBYTE)) == 200 * MEBIBYTE


def test_deregistered_target_finishes_its_requests(front: Front, upstream: int) -> None:
    answers: list[requests.Response] = []
    slow = threading.Thread(target=lambda: answers.append(requests.get(f"{front.url}/slow", timeout=10)))
    slow.start()
    time.sleep(0.3)
    front.elbv2.deregister_targets(**front.target(upstream))
    eventually(lambda: front.states().get(upstream) == "draining")
    assert requests.get(front.url, timeout=10).status_code == 503
    slow.join()
    assert answers[0].status_code == 200
    eventually(lambda: upstream not in front.states())


def test_no_answer_without_targets(front: Front) -> None:
    assert requests.get(front.url, timeout=10).status_code == 503
    nobody = free_port()
    front.elbv2.register_targets(**front.target(nobody))
    assert front.states()[nobody] == "initial"
    assert requests.get(front.url, timeout=10).status_code == 503
    front.elbv2.deregister_targets(**front.target(nobody))


def test_port_that_is_taken_is_named(front: Front) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as other:
        taken = other.server_address[1]
        with pytest.raises(ClientError, match=f"Port {taken} of this machine is in use.*front.port"):
            front.listen(taken)
    listeners = front.elbv2.describe_listeners(LoadBalancerArn=front.balancer["LoadBalancerArn"])["Listeners"]
    assert [listener["Port"] for listener in listeners] == [front.port]


def test_certificates_are_refused(front: Front) -> None:
    with pytest.raises(ClientError, match="serves HTTP listeners only"):
        front.listen(free_port(), Protocol="HTTPS")


def test_rules_choose_before_the_default(front: Front, upstream: int) -> None:
    [listener] = front.elbv2.describe_listeners(LoadBalancerArn=front.balancer["LoadBalancerArn"])[
        "Listeners"
    ]
    fixed = {"StatusCode": "403", "ContentType": "text/plain", "MessageBody": "not here"}
    front.elbv2.create_rule(
        ListenerArn=listener["ListenerArn"],
        Priority=1,
        Conditions=[{"Field": "path-pattern", "Values": ["/private/*"]}],
        Actions=[{"Type": "fixed-response", "FixedResponseConfig": fixed}],
    )
    answer = requests.get(f"{front.url}/private/x", timeout=10)
    assert (answer.status_code, answer.text) == (403, "not here")
    assert requests.get(f"{front.url}/public", timeout=10).status_code == 200


def test_protected_balancer_is_not_deleted(front: Front) -> None:
    arn = front.balancer["LoadBalancerArn"]

    def protect(value: str) -> None:
        front.elbv2.modify_load_balancer_attributes(
            LoadBalancerArn=arn, Attributes=[{"Key": "deletion_protection.enabled", "Value": value}]
        )

    protect("true")
    with pytest.raises(ClientError, match="deletion protection is enabled"):
        front.elbv2.delete_load_balancer(LoadBalancerArn=arn)
    protect("false")
    front.elbv2.delete_load_balancer(LoadBalancerArn=arn)
    with pytest.raises(requests.ConnectionError):
        requests.get(front.url, timeout=5)
