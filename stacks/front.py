"""How clients reach the server: a load balancer inside the VPC, and the names that the server answers to."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stacks.findings import accept
from stacks.sections import Front


class InternalFront(Construct):
    """A load balancer without a public address.

    Attributes:
        load_balancer: passes requests on to what `serve` is given.
        hosts: every name of the server, the one that clients are told first.
        origins: the same as web origins, such as `https://mlflow.example.com`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        name: str,
        front: Front,
        vpc: ec2.IVpc,
        subnets: ec2.SubnetSelection,
        security_group: ec2.ISecurityGroup,
        access_logs: s3.IBucket,
        protect: bool,
    ) -> None:
        super().__init__(scope, id)
        self._front = front
        self.load_balancer = elbv2.ApplicationLoadBalancer(
            self,
            "LoadBalancer",
            # The DNS name starts with this name. One that CloudFormation makes up has capital letters, which
            # browsers lower, and MLflow compares host names as they stand. The kind is part of it because a
            # change of kind creates the new load balancer before it deletes the old one.
            load_balancer_name=f"{name}-{front.kind}",
            vpc=vpc,
            vpc_subnets=subnets,
            internet_facing=False,
            security_group=security_group,
            deletion_protection=protect,
            drop_invalid_header_fields=True,
            # Below the keep-alive of the server, so that it is never the server which closes first.
            idle_timeout=cdk.Duration.seconds(60),
        )
        self.load_balancer.log_access_logs(access_logs, prefix="load-balancer")
        accept(self, "ALBWAFEnabled", reason="Not reachable from the internet")
        if not protect:
            accept(
                self,
                "ELBDeletionProtectionEnabled",
                reason="The environment file says protect: false, so that the environment can be destroyed",
            )
        self.hosts = [*front.host_names, self.load_balancer.load_balancer_dns_name]
        standard_port = {"http": 80, "https": 443}[front.scheme]
        port = "" if front.listener_port == standard_port else f":{front.listener_port}"
        self.origins = [f"{front.scheme}://{host}{port}" for host in self.hosts]

    @property
    def tracking_uri(self) -> str:
        """What clients give to MLflow."""
        return self.origins[0]

    @property
    def allowed_hosts(self) -> str:
        """For MLflow, which compares the Host header as it stands: each name with and without a port."""
        return ",".join(form for host in self.hosts for form in (host, f"{host}:*"))

    def serve(self, target_group: elbv2.ApplicationTargetGroup) -> None:
        """Passes every request on to `target_group`."""
        certificate = (
            [acm.Certificate.from_certificate_arn(self, "Certificate", self._front.certificate_arn)]
            if self._front.certificate_arn
            else None
        )
        self.load_balancer.add_listener(
            "Listener",
            port=self._front.listener_port,
            protocol=elbv2.ApplicationProtocol[self._front.scheme.upper()],
            certificates=certificate,
            open=False,
            default_target_groups=[target_group],
        )
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
