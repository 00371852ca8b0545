"""Application Load Balancers: each listener really listens on loopback and spreads requests over healthy targets."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
from aiohttp import web
from moto.elbv2.models import ELBv2Backend, elbv2_backends

from local.endpoint import ServiceError
from local.patches import Patches
from local.proxy import choose_action, fixed_response, forward, open_session

T = TypeVar("T")
# a new target is looked at this often until its first answer, seconds
_INITIAL_INTERVAL = 0.2


@dataclass
class Target:
    """A registered address and how it is doing: initial, healthy, unhealthy or draining."""

    host: str
    port: int
    state: str = "initial"
    reason: str = "Elb.RegistrationInProgress"
    requests: int = 0
    passed: int = 0
    failed: int = 0
    checker: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The target's base URL."""
        return f"http://{self.host}:{self.port}"


class Balancers:
    """Every load balancer's data plane, on an event loop in a thread of its own.

    `dns_name` is what DescribeLoadBalancers tells. Health checks come at the target group's interval, but
    every `longest_interval` seconds at least, so that nobody waits for a laptop.
    """

    def __init__(self, *, dns_name: str = "localhost", longest_interval: float = 5) -> None:
        self._dns_name = dns_name
        self._longest_interval = longest_interval
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="balancers")
        self._sites: dict[str, web.ServerRunner] = {}  # by listener
        self._targets: dict[str, list[Target]] = {}  # by target group
        self._session: aiohttp.ClientSession | None = None
        self.operations = {
            "RegisterTargets": self._register_targets,
            "DeregisterTargets": self._deregister_targets,
            "DescribeTargetHealth": self._describe_target_health,
        }

    def start(self, patches: Patches) -> None:
        """Follow moto's listeners from now on."""
        self._thread.start()
        self._session = self._await(self._connect())
        patches.wrap(ELBv2Backend, "create_load_balancer", self._created)
        patches.wrap(ELBv2Backend, "create_listener", self._opened)
        patches.wrap(ELBv2Backend, "delete_listener", self._closed)
        patches.wrap(ELBv2Backend, "delete_load_balancer", self._deleted)
        patches.wrap(ELBv2Backend, "modify_listener", self._modified)

    def close(self) -> None:
        """Stop listening, after the requests under way."""
        if not self._thread.is_alive():
            return
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def register(self, group: str, host: str, port: int) -> None:
        """Add a target to a target group."""
        self._await(self._register(group, Target(host, port)))

    def deregister(self, group: str, host: str, port: int) -> None:
        """Take a target out; returns when its requests are done, or the deregistration delay is over."""
        target = self._find(group, host, port)
        if target is None:
            return
        self._await(self._drain(group, target))

    def health(self, group: str, host: str, port: int) -> Target | None:
        """A target as it is now; None when it is not registered."""
        return self._find(group, host, port)

    def patience(self, group: str) -> float:
        """How long, in seconds, a target's checks may fail until it counts as unhealthy."""
        settings = self._group(group)
        return float(settings.health_check_interval_seconds) * int(settings.unhealthy_threshold_count)

    def _find(self, group: str, host: str, port: int) -> Target | None:
        for target in self._targets.get(group, []):
            if (target.host, target.port) == (host, port):
                return target
        return None

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> aiohttp.ClientSession:
        return open_session()  # belongs to the loop that it is made on

    async def _close(self) -> None:
        for runner in self._sites.values():
            await runner.cleanup()
        for target in [item for targets in self._targets.values() for item in targets]:
            if target.checker:
                target.checker.cancel()
        if self._session:
            await self._session.close()

    # --- the control plane: what happens to moto's balancers

    def _created(self, original: Callable[..., Any], backend: ELBv2Backend, *args: Any, **kwargs: Any) -> Any:
        balancer = original(backend, *args, **kwargs)
        if balancer.type != "application":
            raise ServiceError("InvalidConfigurationRequest", "only application load balancers run here")
        balancer.dns_name = self._dns_name
        balancer.state = "active"
        return balancer

    def _opened(self, original: Callable[..., Any], backend: ELBv2Backend, *args: Any, **kwargs: Any) -> Any:
        listener = original(backend, *args, **kwargs)
        try:
            self._await(self._listen(backend, listener))
        except BaseException:
            backend.delete_listener(listener.arn)
            raise
        return listener

    def _closed(self, original: Callable[..., Any], backend: ELBv2Backend, arn: str) -> Any:
        listener = original(backend, arn)
        self._forget(arn)
        return listener

    def _deleted(self, original: Callable[..., Any], backend: ELBv2Backend, arn: str) -> Any:
        balancer = backend.load_balancers.get(arn)
        if balancer and balancer.attrs.get("deletion_protection.enabled") == "true":
            raise ServiceError(
                "OperationNotPermitted",
                f"Load balancer '{arn}' cannot be deleted because deletion protection is enabled",
            )
        for listener in list(balancer.listeners) if balancer else []:
            self._forget(listener)
        return original(backend, arn)

    def _modified(
        self, original: Callable[..., Any], backend: ELBv2Backend, arn: str, *args: Any, **kwargs: Any
    ) -> Any:
        listener = original(backend, arn, *args, **kwargs)
        self._forget(arn)
        self._await(self._listen(backend, listener))
        return listener

    def _forget(self, listener: str) -> None:
        if runner := self._sites.pop(listener, None):
            self._await(runner.cleanup())

    async def _listen(self, backend: ELBv2Backend, listener: Any) -> None:
        if listener.protocol != "HTTP":
            raise ServiceError(
                "UnsupportedProtocol",
                f"The embedded AWS serves HTTP listeners only, not {listener.protocol}: "
                "choose an environment whose front has no certificate",
            )

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            return await self._handle(backend, listener, request)

        server = web.Server(handle, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=5)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", int(listener.port)).start()
        except OSError as error:
            await runner.cleanup()
            reasons = {errno.EADDRINUSE: "is in use by another program", errno.EACCES: "needs root's rights"}
            reason = reasons.get(error.errno or 0, str(error))
            raise ServiceError(
                "InvalidConfigurationRequest",
                f"Port {listener.port} of this machine {reason}: "
                "free it, or set another front.port in the environment file",
            ) from error
        self._sites[listener.arn] = runner

    # --- the data plane

    async def _handle(
        self, backend: ELBv2Backend, listener: Any, request: web.BaseRequest
    ) -> web.StreamResponse:
        action = choose_action(listener, request)
        if action["Type"] == "fixed-response":
            return fixed_response(action["FixedResponseConfig"])
        group = action.get("TargetGroupArn") or action["ForwardConfig"]["TargetGroups"][0]["TargetGroupArn"]
        target = self._choose(group)
        if target is None:
            return web.Response(status=503, text="503 Service Temporarily Unavailable")
        target.requests += 1
        try:
            assert self._session is not None  # noqa: S101 - opened by start()
            return await forward(self._session, target.url, request, port=int(listener.port))
        finally:
            target.requests -= 1

    def _choose(self, group: str) -> Target | None:
        targets = self._targets.get(group, [])
        healthy = [target for target in targets if target.state == "healthy"]
        # with no healthy target a balancer tries them all
        candidates = healthy or [target for target in targets if target.state == "unhealthy"]
        if not candidates:
            return None
        chosen = candidates[0]
        targets.remove(chosen)  # to the end of the round
        targets.append(chosen)
        return chosen

    # --- targets and their health

    async def _register(self, group: str, target: Target) -> None:
        self._targets.setdefault(group, []).append(target)
        target.checker = self._loop.create_task(self._check(group, target))

    async def _drain(self, group: str, target: Target) -> None:
        target.state, target.reason = "draining", "Target.DeregistrationInProgress"
        delay = float(self._group(group).attributes.get("deregistration_delay.timeout_seconds", 300))
        deadline = time.monotonic() + delay
        while target.requests and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if target.checker:
            target.checker.cancel()
        self._targets[group].remove(target)

    async def _check(self, group: str, target: Target) -> None:
        while True:
            settings = self._group(group)
            problem = await self._problem(settings, target)
            if target.state == "draining":
                return
            if problem is None:
                target.passed, target.failed = target.passed + 1, 0
                # a new target needs to pass once, one that was unhealthy several times
                if target.state == "initial" or target.passed >= int(settings.healthy_threshold_count):
                    target.state, target.reason = "healthy", ""
            else:
                target.passed, target.failed = 0, target.failed + 1
                target.reason = problem
                if target.state == "healthy" and target.failed >= int(settings.unhealthy_threshold_count):
                    target.state = "unhealthy"
            interval = min(float(settings.health_check_interval_seconds), self._longest_interval)
            await asyncio.sleep(_INITIAL_INTERVAL if target.state == "initial" else interval)

    async def _problem(self, settings: Any, target: Target) -> str | None:
        assert self._session is not None  # noqa: S101 - opened by start()
        timeout = aiohttp.ClientTimeout(total=float(settings.health_check_timeout_seconds))
        url = f"{target.url}{settings.health_check_path or '/'}"
        headers = {"User-Agent": "ELB-HealthChecker/2.0"}
        try:
            async with self._session.get(
                url, timeout=timeout, headers=headers, allow_redirects=False
            ) as answer:
                if _matches(answer.status, settings.matcher):
                    return None
                return f"Health checks failed with these codes: [{answer.status}]"
        except asyncio.TimeoutError:
            return "Request timed out"
        except aiohttp.ClientError:
            return "Health checks failed"

    def _group(self, arn: str) -> Any:
        return self._backend(arn).target_groups[arn]

    def _backend(self, arn: str) -> ELBv2Backend:
        _, _, _, region, account, _ = arn.split(":", 5)
        return elbv2_backends[account][region]

    def _register_targets(self, request: dict[str, Any]) -> dict[str, Any]:
        group = self._checked(request["TargetGroupArn"])
        for target in request["Targets"]:
            self.register(request["TargetGroupArn"], target["Id"], int(target.get("Port", group.port)))
        return {}

    def _deregister_targets(self, request: dict[str, Any]) -> dict[str, Any]:
        arn, group = request["TargetGroupArn"], self._checked(request["TargetGroupArn"])
        for target in request["Targets"]:
            parameters = (arn, target["Id"], int(target.get("Port", group.port)))
            threading.Thread(target=self.deregister, args=parameters, daemon=True).start()
        return {}

    def _describe_target_health(self, request: dict[str, Any]) -> dict[str, Any]:
        self._checked(request["TargetGroupArn"])
        return {
            "TargetHealthDescriptions": [
                {
                    "Target": {"Id": target.host, "Port": target.port},
                    "HealthCheckPort": str(target.port),
                    "TargetHealth": {"State": target.state, "Description": target.reason},
                }
                for target in self._targets.get(request["TargetGroupArn"], [])
            ]
        }

    def _checked(self, arn: str) -> Any:
        group = self._backend(arn).target_groups.get(arn)
        if group is None:
            raise ServiceError("TargetGroupNotFound", f"Target groups '{arn}' not found")
        return group


def _matches(status: int, matcher: dict[str, Any]) -> bool:
    for part in str(matcher.get("HttpCode", "200")).split(","):
        low, _, high = part.partition("-")
        if int(low) <= status <= int(high or low):
            return True
    return False
