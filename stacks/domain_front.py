"""A front under a name of your own."""

from __future__ import annotations

from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_route53_targets as targets
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

from stacks.environment import Environment
from stacks.findings import accept
from stacks.front import PORTS, LoadBalancedFront
from stacks.network import NetworkStack
from stacks.storage import StorageStack


class DomainFront(LoadBalancedFront):
    """A load balancer with public addresses, which takes HTTPS for `front.domain_name`."""

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
            scope,
            id,
            environment=environment,
            network=network,
            storage=storage,
            subnets=network.public_subnets,
            internet_facing=True,
        )
        front = environment.front
        self.hosts = [str(front.domain_name), *front.host_names]
        self.origins = [f"https://{host}" for host in self.hosts]
        self._zone = self._hosted_zone()
        self._certificate = self._certificate_of_the_names()
        if self._zone:
            self._point_names_here(self._zone)
        self._filter()

    def serve(self, target_group: elbv2.ApplicationTargetGroup) -> None:
        """See LoadBalancedFront."""
        listener = self.listen(target_group, port=PORTS["https"], certificate=self._certificate)
        listener.set_attribute(
            "routing.http.response.strict_transport_security.header_value", "max-age=31536000"
        )
        redirect = self.load_balancer.add_listener(
            "Redirect",
            port=PORTS["http"],
            protocol=elbv2.ApplicationProtocol.HTTP,
            open=False,
            default_action=elbv2.ListenerAction.redirect(
                protocol="HTTPS", port=str(PORTS["https"]), permanent=True
            ),
        )
        accept(
            redirect,
            "ELBv2ACMCertificateRequired",
            reason="It sends everybody to the HTTPS listener, and nothing to the server",
        )

    def _hosted_zone(self) -> route53.IHostedZone | None:
        front = self.environment.front
        if not front.hosted_zone_id:
            return None
        return route53.HostedZone.from_hosted_zone_attributes(
            self, "Zone", hosted_zone_id=front.hosted_zone_id, zone_name=str(front.hosted_zone_name)
        )

    def _certificate_of_the_names(self) -> acm.ICertificate:
        front = self.environment.front
        if front.certificate_arn:
            return acm.Certificate.from_certificate_arn(self, "Certificate", front.certificate_arn)
        return acm.Certificate(
            self,
            "Certificate",
            domain_name=self.hosts[0],
            subject_alternative_names=self.hosts[1:] or None,
            validation=acm.CertificateValidation.from_dns(self._zone),
        )

    def _point_names_here(self, zone: route53.IHostedZone) -> None:
        target = route53.RecordTarget.from_alias(targets.LoadBalancerTarget(self.load_balancer))
        for number, host in enumerate(self.hosts):
            route53.ARecord(self, f"Name{number or ''}", zone=zone, record_name=f"{host}.", target=target)

    def _filter(self) -> None:
        if self.environment.front.web_acl_arn:
            wafv2.CfnWebACLAssociation(
                self,
                "WebAcl",
                resource_arn=self.load_balancer.load_balancer_arn,
                web_acl_arn=self.environment.front.web_acl_arn,
            )
            return
        accept(
            self,
            "ALBWAFEnabled",
            reason="Every request must prove who is calling before MLflow sees it; front.web_acl_arn adds a filter",
        )
