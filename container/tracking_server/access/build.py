"""Puts the gate together from its settings."""

from __future__ import annotations

from sqlalchemy.engine import Engine as Database
from starlette.types import ASGIApp

from tracking_server.access.audit import Audit, LogGroup, StandardOutput
from tracking_server.access.authentication import Authentication
from tracking_server.access.bearers import Bearers
from tracking_server.access.engines import IamEngine, RolesEngine
from tracking_server.access.gate import Gate
from tracking_server.access.marks import Marks
from tracking_server.access.own import OwnRoutes
from tracking_server.access.permissions import Engine, Permissions
from tracking_server.access.proof import Prover
from tracking_server.access.routes import Routes
from tracking_server.access.sessions import Sessions
from tracking_server.access.settings import AccessSettings
from tracking_server.access.signed import Signer
from tracking_server.access.sts import StsTokens
from tracking_server.access.web_identity import WebIdentityTokens


def build_gate(app: ASGIApp, *, settings: AccessSettings, key: str, engine: Database) -> Gate:
    """The gate in front of `app`. `key` signs what it gives out; `engine` is the database that all tasks share."""
    arn = settings.tracking_server_arn
    routes = Routes.load()
    signer = Signer(key=key, tracking_server_arn=arn)
    marks = Marks(engine)
    bearers = Bearers(signer)
    permissions = Permissions(_engine(settings, routes))
    sessions = Sessions(
        signer=signer, marks=marks, origins=frozenset(settings.origins), secure=settings.secure
    )
    provers: list[Prover] = [
        StsTokens(names=settings.names, regions=settings.regions, tracking_server_arn=arn),
        bearers,
    ]
    if settings.web_identity_issuer:
        provers.append(
            WebIdentityTokens(
                issuer=settings.web_identity_issuer, names=settings.names, tracking_server_arn=arn
            )
        )
    return Gate(
        app,
        routes=routes,
        authentication=Authentication(provers),
        permissions=permissions,
        sessions=sessions,
        own=OwnRoutes(
            bearers=bearers,
            sessions=sessions,
            marks=marks,
            permissions=permissions,
            origin=settings.origins[0],
            tracking_server_arn=arn,
        ),
        marks=marks,
        audit=_audit(settings),
        tracking_server_arn=arn,
        names=settings.names,
        proxies=settings.proxies,
    )


def _engine(settings: AccessSettings, routes: Routes) -> Engine:
    if settings.engine == "iam":
        return IamEngine(
            routes=routes, tracking_server_arn=settings.tracking_server_arn, secure=settings.secure
        )
    return RolesEngine(
        routes=routes,
        tracking_server_arn=settings.tracking_server_arn,
        policies=settings.policies,
        secure=settings.secure,
    )


def _audit(settings: AccessSettings) -> Audit:
    return LogGroup(settings.audit_log_group) if settings.audit_log_group else StandardOutput()
