"""A front on the internet without a domain of your own."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_elasticloadbalancingv2 as elbv2
from aws_cdk import aws_iam as iam
from aws_cdk import custom_resources
from constructs import Construct

from stacks.environment import Environment
from stacks.findings import accept
from stacks.front import IDLE_SECONDS, PORTS, LoadBalancedFront
from stacks.log_groups import grant_write, log_group
from stacks.network import NetworkStack
from stacks.roles import service_role
from stacks.storage import StorageStack

#: How long CloudFront keeps a connection that is not in use: the load balancer must not be the first to close it.
KEEP_ALIVE_SECONDS = IDLE_SECONDS - 10
#: How long CloudFront waits for the load balancer, which must be the first to give up and say why. CloudFront takes
#: up to 120 without a raised quota.
READ_SECONDS = IDLE_SECONDS + 5

#: What CloudFront calls the group of its interfaces, one in each VPC.
SERVICE_GROUP = "CloudFront-VPCOrigins-Service-SG"

ANYWHERE = "Every request must prove who is calling, from wherever it comes; front.web_acl_arn adds a filter"

#: What CDK calls the function that all its `AwsCustomResource`s of a stack share.
LOOKUP_FUNCTION = "AWS679f53fac002430cb0da5b7982bd2287"


class CloudFrontFront(LoadBalancedFront):
    """A CloudFront distribution, which has a name and a certificate, before a load balancer inside the VPC.

    CloudFront reaches the load balancer over network interfaces that it makes in the VPC (a VPC origin), and streams
    bodies both ways. It takes 20 KB of request headers and 8 KB of URL, and names no limit for what is uploaded.
    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/cloudfront-limits.html
    """

    trusted_proxies = 2

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
        accept(self.load_balancer, "ALBWAFEnabled", reason="Reachable through CloudFront alone")
        self.distribution = self._distribution()
        self._let_in_cloudfront(network=network, storage=storage)
        self.hosts = [self.distribution.distribution_domain_name]
        self.origins = [f"https://{self.distribution.distribution_domain_name}"]

    def serve(self, target_group: elbv2.ApplicationTargetGroup) -> None:
        """See LoadBalancedFront."""
        self.listen(target_group, port=PORTS["http"])
        accept(
            self,
            "ALBHttpToHttpsRedirection",
            "ELBv2ACMCertificateRequired",
            "CKV_AWS_2",
            "CKV_AWS_103",
            type="AWS::ElasticLoadBalancingV2::Listener",
            reason="Inside the VPC, for CloudFront alone, which takes HTTPS from clients",
        )

    def _distribution(self) -> cloudfront.Distribution:
        distribution = cloudfront.Distribution(
            self,
            "Distribution",
            comment=self.environment.name,
            http_version=cloudfront.HttpVersion.HTTP2_AND_3,
            web_acl_id=self.environment.front.web_acl_arn,
            default_behavior=cloudfront.BehaviorOptions(
                origin=origins.VpcOrigin.with_application_load_balancer(
                    self.load_balancer,
                    # names of VPC origins are seen in all regions
                    vpc_origin_name=f"{self.environment.name}-{self.environment.region}",
                    protocol_policy=cloudfront.OriginProtocolPolicy.HTTP_ONLY,
                    http_port=PORTS["http"],
                    read_timeout=cdk.Duration.seconds(READ_SECONDS),
                    keepalive_timeout=cdk.Duration.seconds(KEEP_ALIVE_SECONDS),
                ),
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS,
                allowed_methods=cloudfront.AllowedMethods.ALLOW_ALL,
                # Answers depend on who is calling: nothing is kept, and the whole request is passed on.
                cache_policy=cloudfront.CachePolicy.CACHING_DISABLED,
                origin_request_policy=cloudfront.OriginRequestPolicy.ALL_VIEWER,
                compress=False,
                # HSTS and the like, for answers that do not say it themselves
                response_headers_policy=cloudfront.ResponseHeadersPolicy.SECURITY_HEADERS,
            ),
        )
        accept(
            distribution,
            "AwsSolutions-CFR1",
            reason=ANYWHERE,
        )
        if not self.environment.front.web_acl_arn:
            accept(
                distribution,
                "AwsSolutions-CFR2",
                "CKV_AWS_68",
                reason=ANYWHERE,
            )
        accept(
            distribution,
            "AwsSolutions-CFR4",
            "CKV_AWS_174",
            reason="CloudFront decides on the TLS of its own names; a front of the kind domain takes TLS 1.2 and later",
        )
        accept(
            distribution,
            "AwsSolutions-CFR3",
            "CKV_AWS_86",
            reason="Nothing is cached, so that the load balancer sees and logs every request",
        )
        return distribution

    def _let_in_cloudfront(self, *, network: NetworkStack, storage: StorageStack) -> None:
        """Opens the load balancer to the interfaces that CloudFront makes in this VPC, and to nothing else.

        Their security group is the tightest that can be named: the prefix list of CloudFront would let in the
        distributions of strangers, and the block of the VPC does not match, since packets bear addresses of
        CloudFront. CloudFormation does not tell the id of the group, so it is asked for while it deploys.
        """
        group_id = "SecurityGroups.0.GroupId"
        log = log_group(self, "LookupLog", environment=self.environment, key=storage.key)
        policy = iam.ManagedPolicy(self, "LookupPolicy", description="Find the security group of CloudFront")
        grant_write(log, policy)
        policy.add_statements(iam.PolicyStatement(actions=["ec2:DescribeSecurityGroups"], resources=["*"]))
        accept(
            policy,
            "AwsSolutions-IAM5[Resource::*]",
            reason="ec2:DescribeSecurityGroups has no resource type",
        )
        role = service_role(self, "LookupRole", service="lambda.amazonaws.com", policies=(policy,))
        lookup = custom_resources.AwsCustomResource(
            self,
            "Lookup",
            resource_type="Custom::VpcOriginSecurityGroup",
            role=role.without_policy_updates(),
            log_group=log,
            install_latest_aws_sdk=False,
            on_update=custom_resources.AwsSdkCall(
                service="ec2",
                action="DescribeSecurityGroups",
                parameters={
                    "Filters": [
                        {"Name": "vpc-id", "Values": [network.vpc.vpc_id]},
                        {"Name": "group-name", "Values": [SERVICE_GROUP]},
                    ]
                },
                output_paths=[group_id],
                physical_resource_id=custom_resources.PhysicalResourceId.of(SERVICE_GROUP),
            ),
        )
        accept(
            cdk.Stack.of(self).node.find_child(LOOKUP_FUNCTION),
            "LambdaConcurrency",
            "LambdaDLQ",
            "LambdaDefaultMemorySize",
            "LambdaInsideVPC",
            "LambdaTracing",
            "CKV_AWS_115",
            "CKV_AWS_116",
            "CKV_AWS_117",
            "W3005",
            reason="Made by CDK and called by CloudFormation alone, which shows its answer; it asks EC2 for one group",
        )
        lookup.node.add_dependency(self.distribution)  # the group is made together with the VPC origin
        ec2.CfnSecurityGroupIngress(
            self,
            "FromCloudFront",
            description="CloudFront to load balancer",
            group_id=network.load_balancer.security_group_id,
            source_security_group_id=lookup.get_response_field(group_id),
            ip_protocol="tcp",
            from_port=PORTS["http"],
            to_port=PORTS["http"],
        )
