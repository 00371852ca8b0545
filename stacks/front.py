"""How clients reach the server: a load balancer, and the names that the server answers to.

`InternalFront` is a load balancer and nothing else; `CloudFrontFront` and `DomainFront` put one on the internet.
Whatever a load balancer is given, it streams: there is no limit to the size of a request or an answer, only to how
long neither side says anything.
"""

from __future__ import annotations

from abc import abstractmethod

import aws_cdk as cdk
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from constructs import Construct

from stacks.environment import Environment
from stacks.findings import accept
from stacks.network import NetworkStack
from stacks.storage import StorageStack

#: How long the load balancer waits for the next byte. Below the keep-alive of the server, so that it is never the
#: server which closes first.
IDLE_SECONDS = 60

PORTS = {"http": 80, "https": 443}


class LoadBalancedFront(Construct):
    """What all fronts have: a load balancer before the tasks.

    Attributes:
        load_balancer: passes requests on to what `serve` is given.
        hosts: every name of the server, the one that clients are told first.
        origins: the same as web origins, such as `https://mlflow.example.com`.
        trusted_proxies: how many proxies append to X-Forwarded-For before a request reaches the server.
    """

    trusted_proxies = 1
    hosts: list[str]
    origins: list[str]

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        environment: Environment,
        network: NetworkStack,
        storage: StorageStack,
        subnets: ec2.SubnetSelection,
        internet_facing: bool = False,
    ) -> None:
        super().__init__(scope, id)
        self.environment = environment
        self.load_balancer = elbv2.ApplicationLoadBalancer(
            self,
            "LoadBalancer",
            # The DNS name starts with this name. One that CloudFormation makes up has capital letters, which
            # browsers lower, and MLflow compares host names as they stand. The kind is part of it because a
            # change of kind creates the new load balancer before it deletes the old one.
            load_balancer_name=f"{environment.name}-{environment.front_kind}",
            vpc=network.vpc,
            vpc_subnets=subnets,
            internet_facing=internet_facing,
            security_group=network.load_balancer,
            deletion_protection=environment.protect,
            drop_invalid_header_fields=True,
            # Requests that two servers could read in two ways end here, not at the gate.
            desync_mitigation_mode=elbv2.DesyncMitigationMode.STRICTEST,
            # The gate counts from the right, where the caller cannot write.
            xff_header_processing_mode=elbv2.XffHeaderProcessingMode.APPEND,
            idle_timeout=cdk.Duration.seconds(IDLE_SECONDS),
        )
        self.load_balancer.log_access_logs(storage.access_logs, prefix="load-balancer")
        if not environment.protect:
            accept(
                self,
                "ELBDeletionProtectionEnabled",
                reason="The environment file says protect: false, so that the environment can be destroyed",
            )

    @property
    def tracking_uri(self) -> str:
        """What clients give to MLflow."""
        return self.origins[0]

    @property
    def allowed_hosts(self) -> str:
        """For MLflow, which compares the Host header as it stands: each name with and without a port."""
        return ",".join(form for host in self.hosts for form in (host, f"{host}:*"))

    @abstractmethod
    def serve(self, target_group: elbv2.ApplicationTargetGroup) -> None:
        """Passes every request on to `target_group`."""

    def listen(
        self,
        target_group: elbv2.ApplicationTargetGroup,
        *,
        port: int,
        certificate: acm.ICertificate | None = None,
    ) -> elbv2.ApplicationListener:
        """Takes HTTPS on `port`, or HTTP without a certificate; who may connect is for security groups to say."""
        listener = self.load_balancer.add_listener(
            "Listener",
            port=port,
            protocol=elbv2.ApplicationProtocol.HTTPS if certificate else elbv2.ApplicationProtocol.HTTP,
            certificates=[certificate] if certificate else None,
            open=False,
            default_target_groups=[target_group],
        )
        if self.environment.access.web_identity_at_load_balancer:
            self._verify_web_identity(listener, target_group)
        return listener

    def _verify_web_identity(
        self, listener: elbv2.ApplicationListener, target_group: elbv2.ApplicationTargetGroup
    ) -> None:
        """Only what begins as a JSON web token does: the server's own tokens are for the server to read."""
        issuer = str(self.environment.access.web_identity_issuer)
        listener.add_action(
            "WebIdentity",
            priority=1,
            conditions=[elbv2.ListenerCondition.http_header("Authorization", ["Bearer eyJ*"])],
            action=elbv2.ListenerAction.authenticate_jwt(
                issuer=issuer,
                jwks_endpoint=f"{issuer}/.well-known/jwks.json",
                next=elbv2.ListenerAction.forward([target_group]),
            ),
        )


class InternalFront(LoadBalancedFront):
    """A load balancer without a public address."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        environment: Environment,
        network: NetworkStack,
        storage: StorageStack,
    ) -> None:
        super().__init__(
            scope, id, environment=environment, network=network, storage=storage, subnets=network.subnets
        )
        accept(self, "ALBWAFEnabled", reason="Not reachable from the internet")
        front = environment.front
        self.hosts = [*front.host_names, self.load_balancer.load_balancer_dns_name]
        port = "" if front.listener_port == PORTS[front.scheme] else f":{front.listener_port}"
        self.origins = [f"{front.scheme}://{host}{port}" for host in self.hosts]

    def serve(self, target_group: elbv2.ApplicationTargetGroup) -> None:
        """See LoadBalancedFront."""
        front = self.environment.front
        certificate = (
            acm.Certificate.from_certificate_arn(self, "Certificate", front.certificate_arn)
            if front.certificate_arn
            else None
        )
        self.listen(target_group, port=front.listener_port, certificate=certificate)
        if not certificate:
            accept(
                self,
                "ALBHttpToHttpsRedirection",
                "ELBv2ACMCertificateRequired",
                "CKV_AWS_2",
                "CKV_AWS_103",
                type="AWS::ElasticLoadBalancingV2::Listener",
                reason="Inside the VPC, for its security groups alone; front.certificate_arn turns HTTPS on",
            )
