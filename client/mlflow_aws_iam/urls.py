"""Which server a URL leads to, read as `requests` reads it when it connects."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from mlflow.exceptions import MlflowException
from requests import PreparedRequest
from requests.exceptions import RequestException


def server(url: str) -> SplitResult:
    """`url` as `requests` would send it: `hostname` is lower case, without port, user or brackets.

    Raises MlflowException for what is not an HTTP URL.
    """
    request = PreparedRequest()
    try:
        request.prepare_url(url, None)
        parts = urlsplit(request.url or "")
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts
    except (RequestException, ValueError):
        pass
    raise MlflowException(
        "Only a server at an https:// or http:// URL can be given an AWS identity; the tracking URI is "
        f"{url.partition(':')[0]}:…"
    )


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: two URLs with the same lead to the same server. Raises MlflowException."""
    parts = server(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def signed_host(url: str, *, allow_http: bool) -> str:
    """The host name that a token for `url` is bound to.

    Raises MlflowException for plain HTTP to another machine, unless `allow_http`.
    """
    parts = server(url)
    host = str(parts.hostname)
    if parts.scheme == "https" or allow_http or _is_loopback(host):
        return host
    raise MlflowException(
        f"http://{host} is not encrypted: whoever can read the traffic could use your AWS identity on this server "
        "for 15 minutes. Use the https:// tracking URI. If there is none because the network is private and "
        "trusted, set MLFLOW_AWS_IAM_ALLOW_HTTP=true."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
