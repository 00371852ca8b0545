"""Which name a token is bound to, and where none is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow_aws_iam.urls import origin, signed_host
from requests import Request, Session
from requests.adapters import HTTPAdapter


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://mlflow.example.com", "mlflow.example.com"),
        ("HTTPS://MLflow.Example.COM/", "mlflow.example.com"),
        ("https://mlflow.example.com:8443/team/mlflow", "mlflow.example.com"),
        ("https://alice:p%40ss@mlflow.example.com:443", "mlflow.example.com"),
        ("https://good.example.com@evil.example.com/", "evil.example.com"),
        ("https://evil.example.com\\@good.example.com/", "evil.example.com"),
        ("https://evil.example.com#@good.example.com/", "evil.example.com"),
        ("https://evil.example.com?@good.example.com/", "evil.example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://[2001:DB8::1]:8443/x", "2001:db8::1"),
        ("http://[::1]:5000", "::1"),
        ("http://localhost:5000", "localhost"),
        ("http://LOCALHOST:5000", "localhost"),
        ("http://127.0.0.1:5000", "127.0.0.1"),
        ("http://127.8.9.10", "127.8.9.10"),
    ],
)
def test_the_host_that_is_signed(url: str, host: str) -> None:
    assert signed_host(url, allow_http=False) == host


@given(
    st.text(alphabet="ab.@:/\\#?[]%0-\t\n é", max_size=16).map(lambda text: f"https://{text}")
    | st.from_regex(r"https?://([a-z.]{1,5}[@\\#?:/%]{0,2}){1,3}", fullmatch=True)
)
def test_it_is_the_host_that_requests_connects_to(url: str) -> None:
    try:
        host = signed_host(url, allow_http=True)
    except MlflowException:
        return
    request = Session().prepare_request(Request("GET", url))
    connected, _ = HTTPAdapter().build_connection_pool_key_attributes(request, verify=True)
    assert connected["host"].strip("[]") == host


@pytest.mark.parametrize(
    "url",
    [
        "http://mlflow.example.com",
        "http://10.0.0.5:5000",
        "http://128.0.0.1",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1@mlflow.example.com",
        "http://[2001:db8::1]",
    ],
)
def test_plain_http_is_for_this_machine_only(url: str) -> None:
    with pytest.raises(MlflowException, match=r"not encrypted.*set MLFLOW_AWS_IAM_ALLOW_HTTP=true"):
        signed_host(url, allow_http=False)
    assert signed_host(url, allow_http=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mlruns",
        "databricks",
        "sqlite:///mlflow.db",
        "file:///x",
        "ftp://a",
        "https://",
        "https://:443",
        "https://a:b",
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(MlflowException, match="Only a server at an https://"):
        signed_host(url, allow_http=True)


def test_a_password_in_the_url_is_not_repeated() -> None:
    with pytest.raises(MlflowException) as caught:
        signed_host("mysql://alice:hunter2@db/mlflow", allow_http=True)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Mlflow.example.com/a?b", ("https", "mlflow.example.com", 443)),
        ("http://mlflow.example.com", ("http", "mlflow.example.com", 80)),
        ("https://mlflow.example.com:8443", ("https", "mlflow.example.com", 8443)),
    ],
)
def test_origin(url: str, expected: tuple[str, str, int]) -> None:
    assert origin(url) == expected
