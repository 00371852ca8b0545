"""The few pages that the gate shows to people."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping

from starlette.responses import HTMLResponse

from tracking_server.access.errors import Refused, Unauthenticated

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 12vh auto; padding: 0 1.5rem; color: #1f272d }
h1 { font-size: 1.4rem } code { background: #eef1f4; padding: .1rem .35rem; border-radius: 4px }
button { font: inherit; padding: .4rem 1rem; border: 1px solid #0194e2; border-radius: 4px; background: #fff }
p.said { overflow-wrap: anywhere }"""

# The token stands behind the # of the link, which browsers send to nobody: it is in no log of any server or proxy,
# and a program that only looks at links, as mail and chat do, does not use it up.
_OPEN_SCRIPT = """\
const say = text => { document.getElementById("said").textContent = text };
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
if (!token) say("This link holds no token. Make a new one with: kit open");
else fetch("/iam/session", {
  method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ token }),
}).then(async answer => {
  if (answer.ok) location.replace("/");
  else say((await answer.json()).message + ". Make a new link with: kit open");
}).catch(() => say("The server did not answer. Make a new link with: kit open"));"""


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_HEADERS = {
    "Cache-Control": "no-store",
    # not "no-referrer": browsers then send "Origin: null" with a form, even to the same origin
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_source(_OPEN_SCRIPT)}; style-src {_source(_STYLE)}; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
}


def _page(
    title: str, body: str, *, status: int = 200, headers: Mapping[str, str] | None = None, script: str = ""
) -> HTMLResponse:
    content = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{body}"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>"
    )
    return HTMLResponse(content, status, {**_HEADERS, **(headers or {})})


def open_page() -> HTMLResponse:
    """Trades the token in its own address for a session."""
    return _page(
        "MLflow", '<p class="said" id="said" role="status">Signing you in …</p>', script=_OPEN_SCRIPT
    )


def logout_page(*, done: bool = False) -> HTMLResponse:
    """Asks whether to end the session, or says that it has ended."""
    if done:
        return _page(
            "Signed out", "<p>This session has ended. Open a new one with <code>kit open</code>.</p>"
        )
    return _page(
        "Sign out of MLflow", '<form method="post" action="/iam/logout"><button>Sign out</button></form>'
    )


def refusal_page(error: Refused, headers: Mapping[str, str]) -> HTMLResponse:
    """Tells a person what was refused, and how to get in."""
    said = f'<p class="said">{html.escape(error.message)}</p>'
    if isinstance(error, Unauthenticated):
        advice = (
            "<p>Run <code>kit open</code> with your AWS credentials: it prints a link that signs this browser in. "
            "Programs set <code>MLFLOW_TRACKING_AUTH=aws-iam</code>.</p>"
        )
        return _page("Not signed in", said + advice, status=error.status, headers=headers)
    return _page("Refused", said, status=error.status, headers=headers)
