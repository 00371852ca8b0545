"""The VPC and the security groups: who may open a connection to whom."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from stacks.environment import Environment
from stacks.findings import accept, accept_functions_of_cdk
from stacks.sections import Network

#: Port on which a task answers.
SERVER_PORT = 5000

#: A rule that matches nothing.
NO_TRAFFIC = {
    "Description": "Disallow all traffic",
    "CidrIp": "255.255.255.255/32",
    "IpProtocol": "icmp",
    "FromPort": 252,
    "ToPort": 86,
}

#: What a task calls while it starts and runs, by service; S3 has a gateway endpoint.
ENDPOINTS = {
    "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrImages": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Sts": ec2.InterfaceVpcEndpointAwsService.STS,
}


class NetworkStack(cdk.Stack):
    """Everything that packets pass.

    Attributes:
        vpc: the VPC, created or imported. subnets: its private subnets. public_subnets: the others, if any.
        clients: members may connect to an internal load balancer. Put it on notebooks, training jobs and bastions.
            None with other fronts: clients come over the internet then.
        load_balancer, server, database: the security groups of these three.
    """

    def __init__(self, scope: Construct, id: str, *, env: cdk.Environment, environment: Environment) -> None:
        super().__init__(scope, id, env=env, description="MLflow AWS Kit: network")
        network, database = environment.network, environment.database
        self._zones = network.availability_zones
        self.vpc = self._imported_vpc(network) if network.imported else self._created_vpc(network)
        self.subnets = ec2.SubnetSelection(
            subnet_type=ec2.SubnetType.PRIVATE_ISOLATED
            if network.private_only
            else ec2.SubnetType.PRIVATE_WITH_EGRESS
        )
        self.public_subnets = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)

        self.clients = (
            self._security_group("Clients", "Members may connect to the MLflow load balancer")
            if environment.front_kind == "internal"
            else None
        )
        self.load_balancer = self._security_group("LoadBalancer", "MLflow load balancer")
        self.server = self._security_group("Server", "MLflow tasks")
        self.database: ec2.ISecurityGroup = (
            ec2.SecurityGroup.from_security_group_id(self, "Database", str(database.security_group_id))
            if database.imported
            else self._security_group("Database", "MLflow database")
        )
        self._let_in(environment)
        self._connect(environment)
        if network.private_only:
            self._add_endpoints(self.vpc)
        self._accept_findings(environment)

    @property
    def availability_zones(self) -> list[str]:
        """Zones by number: CDK would otherwise look their names up in the account, which takes credentials."""
        return [cdk.Fn.select(zone, cdk.Fn.get_azs()) for zone in range(self._zones)]

    def _created_vpc(self, network: Network) -> ec2.IVpc:
        private = ec2.SubnetConfiguration(
            name="private",
            subnet_type=ec2.SubnetType.PRIVATE_ISOLATED
            if network.private_only
            else ec2.SubnetType.PRIVATE_WITH_EGRESS,
        )
        public = ec2.SubnetConfiguration(
            name="public", subnet_type=ec2.SubnetType.PUBLIC, map_public_ip_on_launch=False
        )
        vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(network.cidr),
            max_azs=network.availability_zones,
            nat_gateways=0 if network.private_only else network.nat_gateways or 1,
            subnet_configuration=[private] if network.private_only else [public, private],
        )
        # Artifacts and image layers come from S3: free this way, and past the NAT gateway.
        vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        return vpc

    def _imported_vpc(self, network: Network) -> ec2.IVpc:
        subnets = list(network.private_subnet_ids)
        return ec2.Vpc.from_vpc_attributes(
            self,
            "Vpc",
            vpc_id=str(network.vpc_id),
            availability_zones=[cdk.Fn.select(zone, cdk.Fn.get_azs()) for zone in range(len(subnets))],
            private_subnet_ids=subnets,
            public_subnet_ids=list(network.public_subnet_ids) or None,
        )

    def _security_group(self, id: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(self, id, vpc=self.vpc, description=description, allow_all_outbound=False)

    def _let_in(self, environment: Environment) -> None:
        """Who may connect to the load balancer. CloudFront may only once it is there: see `CloudFrontFront`."""
        front = environment.front
        ports = {"internal": [front.listener_port], "domain": [443, 80], "cloudfront": []}
        sources: list[ec2.IPeer] = [ec2.Peer.ipv4(block) for block in front.client_cidrs]
        sources += [ec2.Peer.security_group_id(group) for group in front.client_security_group_ids]
        if environment.front_kind == "domain" and not sources:
            sources = [ec2.Peer.any_ipv4()]
            accept(
                self.load_balancer,
                "AwsSolutions-EC23",
                "CKV_AWS_260",
                reason="HTTPS for everybody who can prove who they are, and HTTP that sends there; "
                "front.client_cidrs narrows it",
            )
        for port in ports[environment.front_kind]:
            for source in sources:
                self.load_balancer.add_ingress_rule(source, ec2.Port.tcp(port), "Clients of MLflow")
            if self.clients:
                self.load_balancer.connections.allow_from(
                    self.clients, ec2.Port.tcp(port), "Clients of MLflow"
                )

    def _connect(self, environment: Environment) -> None:
        """Load balancer -> server -> database, each by reference, and nothing else."""
        self.load_balancer.connections.allow_to(
            self.server, ec2.Port.tcp(SERVER_PORT), "Load balancer to server"
        )
        ruled_elsewhere = [self.clients, self.load_balancer]
        if environment.access.web_identity_at_load_balancer:
            self.load_balancer.add_egress_rule(
                ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "Load balancer to the keys of the issuer of tokens"
            )
            ruled_elsewhere.remove(self.load_balancer)
        for group in filter(None, ruled_elsewhere):
            # Their rules are resources of their own, and CloudFormation opens a group that holds none to anywhere.
            resource = group.node.default_child
            assert isinstance(resource, ec2.CfnSecurityGroup)  # noqa: S101 - what an L2 is made of
            resource.add_property_override("SecurityGroupEgress", [NO_TRAFFIC])
        self.server.connections.allow_to(
            self.database, ec2.Port.tcp(environment.database.port), "Server to database"
        )
        # S3 through its gateway endpoint, ECR, Secrets Manager, logs: addresses of AWS, which change and which
        # security groups can only name by prefix lists that differ in each region.
        self.server.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "Server to the APIs of AWS")

    def _add_endpoints(self, vpc: ec2.IVpc) -> None:
        """Ways to AWS without the internet, for the tasks and, as names resolve to them in the whole VPC, clients."""
        endpoints = self._security_group("Endpoints", "Endpoints of AWS services")
        for name, service in ENDPOINTS.items():
            vpc.add_interface_endpoint(name, service=service, security_groups=[endpoints], open=False)
        for group in filter(None, (self.server, self.clients)):
            endpoints.connections.allow_from(group, ec2.Port.tcp(443), "To the APIs of AWS")

    def _accept_findings(self, environment: Environment) -> None:
        network = environment.network
        accept_functions_of_cdk(self)
        if network.imported:
            accept(
                self.vpc,
                "Annotation::@aws-cdk/aws-ec2:noSubnetRouteTableId",
                reason="Routes of an imported VPC are its owner's",
            )
            return
        accept(
            self.vpc,
            "AwsSolutions-VPC7",
            "VPCFlowLogsEnabled",
            reason="The flow log is in the observability stack, since the key that encrypts it comes after the VPC"
            if network.flow_logs
            else "The environment file says network.flow_logs: false",
        )
        if not network.private_only:
            accept(
                self.vpc,
                "VPCNoUnrestrictedRouteToIGW",
                reason="Nothing but the NAT gateways is in the public subnets",
            )
