"""The resource types of RDS, and the secrets that open databases."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from local.cloudformation.provider import (
    ApiProvider,
    Created,
    Provider,
    ResourceRequest,
    call,
    failure,
)

Properties = dict[str, Any]
Old = Mapping[str, Any]


def _parameter_values(client: Any, group: str, new: Properties, old: Old) -> None:
    values = [
        {"ParameterName": name, "ParameterValue": str(value), "ApplyMethod": "pending-reboot"}
        for name, value in new.get("Parameters", {}).items()
    ]
    for start in range(0, len(values), 20):  # what one call takes
        client.modify_db_parameter_group(DBParameterGroupName=group, Parameters=values[start : start + 20])


# what changes nothing that could be seen here, and must never replace an instance
_KEPT_ONLY = frozenset({"AllowMajorVersionUpgrade", "DeleteAutomatedBackups", "EnableCloudwatchLogsExports"})


class DatabaseInstance:
    """An RDS instance; deleted with a final snapshot where the template's policy asks for one."""

    _api = ApiProvider(
        service="rds",
        create_call="create_db_instance",
        id="out.DBInstance.DBInstanceIdentifier",
        key="DBInstanceIdentifier",
        update_call="modify_db_instance",
        name="DBInstanceIdentifier",
        name_limit=63,
        renamed={"VPCSecurityGroups": "VpcSecurityGroupIds", "MasterUserSecret": "MasterUserSecretKmsKeyId"},
        attributes={
            "DBInstanceArn": "out.DBInstance.DBInstanceArn",
            "DbiResourceId": "out.DBInstance.DbiResourceId",
            "Endpoint.Address": "out.DBInstance.Endpoint.Address",
            "Endpoint.Port": "to_string(out.DBInstance.Endpoint.Port)",
            "MasterUserSecret.SecretArn": "out.DBInstance.MasterUserSecret.SecretArn",
        },
        fixed=frozenset({"DBInstanceIdentifier", "Engine", "DBSubnetGroupName"}),
        by_after=_KEPT_ONLY,
        before=lambda properties, _: _instance(properties),
    )

    def create(self, request: ResourceRequest) -> Created:
        """Create the instance; its server answers when this returns."""
        return self._api.create(request)

    def update(self, request: ResourceRequest, physical_id: str, old: Old) -> Created | None:
        """Modify the instance."""
        request.properties.setdefault("ApplyImmediately", True)
        try:
            return self._api.update(request, physical_id, old)
        finally:
            request.properties.pop("ApplyImmediately")

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Delete the instance, leaving a final snapshot if asked."""
        name = f"{request.stack_name}-snapshot-{request.logical_id}-{uuid.uuid4().hex[:12]}".lower()
        final = {"FinalDBSnapshotIdentifier": name} if snapshot else {"SkipFinalSnapshot": True}
        client = request.environment.client("rds")
        try:
            client.delete_db_instance(DBInstanceIdentifier=physical_id, **final)
        except client.exceptions.DBInstanceNotFoundFault:
            return
        except ClientError as error:
            raise failure(error) from error


def _instance(properties: Properties) -> Properties:
    if "MasterUserSecret" in properties:
        properties["MasterUserSecret"] = properties["MasterUserSecret"].get("KmsKeyId")
    if "DBInstanceIdentifier" in properties:
        properties["DBInstanceIdentifier"] = properties["DBInstanceIdentifier"].lower()
    return properties


def _secret(properties: Properties, request: ResourceRequest) -> Properties:
    wanted = properties.pop("GenerateSecretString", None)
    if wanted is None:
        return properties
    key, template = wanted.get("GenerateStringKey"), wanted.get("SecretStringTemplate", "{}")
    rules = {
        name: value
        for name, value in wanted.items()
        if name not in ("GenerateStringKey", "SecretStringTemplate")
    }
    generator = ApiProvider(
        service="secretsmanager", create_call="get_random_password", id="out.RandomPassword"
    )
    password = generator.create(ResourceRequest(**{**vars(request), "properties": rules})).physical_id
    properties["SecretString"] = json.dumps({**json.loads(template), key: password}) if key else password
    return properties


def _secret_settings(client: Any, arn: str, new: Properties, old: Old) -> None:
    settings = {key: new[key] for key in ("Description", "KmsKeyId") if key in new}
    if old and settings:
        client.update_secret(SecretId=arn, **settings)


class TargetAttachment:
    """Adds the address of a database to the secret that holds its account."""

    def create(self, request: ResourceRequest) -> Created:
        """Write host, port, engine and names into the secret."""
        properties, environment = request.properties, request.environment
        instance = call(
            environment.client("rds"), "describe_db_instances", DBInstanceIdentifier=properties["TargetId"]
        )["DBInstances"][0]
        secrets = environment.client("secretsmanager")
        value = json.loads(call(secrets, "get_secret_value", SecretId=properties["SecretId"])["SecretString"])
        value.update(
            host=instance["Endpoint"]["Address"],
            port=instance["Endpoint"]["Port"],
            engine=instance["Engine"],
            dbInstanceIdentifier=instance["DBInstanceIdentifier"],
        )
        call(secrets, "put_secret_value", SecretId=properties["SecretId"], SecretString=json.dumps(value))
        return Created(properties["SecretId"])

    def update(self, request: ResourceRequest, physical_id: str, old: Old) -> Created | None:
        """Write it again."""
        return self.create(request) if request.properties["SecretId"] == physical_id else None

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """The secret goes with its own resource."""


TYPES: dict[str, Provider] = {
    "AWS::RDS::DBSubnetGroup": ApiProvider(
        service="rds",
        create_call="create_db_subnet_group",
        id="out.DBSubnetGroup.DBSubnetGroupName",
        key="DBSubnetGroupName",
        update_call="modify_db_subnet_group",
        delete_call="delete_db_subnet_group",
        name="DBSubnetGroupName",
    ),
    "AWS::RDS::DBParameterGroup": ApiProvider(
        service="rds",
        create_call="create_db_parameter_group",
        id="out.DBParameterGroup.DBParameterGroupName",
        key="DBParameterGroupName",
        delete_call="delete_db_parameter_group",
        name="DBParameterGroupName",
        renamed={"Family": "DBParameterGroupFamily"},
        attributes={"DBParameterGroupName": "out.DBParameterGroup.DBParameterGroupName"},
        after=_parameter_values,
        by_after=frozenset({"Parameters"}),
    ),
    "AWS::RDS::DBInstance": DatabaseInstance(),
    "AWS::SecretsManager::Secret": ApiProvider(
        service="secretsmanager",
        create_call="create_secret",
        id="out.ARN",
        key="SecretId",
        delete_call="delete_secret",
        name="Name",
        attributes={"Id": "out.ARN"},
        before=_secret,
        after=_secret_settings,
        by_after=frozenset({"Description", "KmsKeyId"}),
        deleted_by=lambda arn, _: {"SecretId": arn, "ForceDeleteWithoutRecovery": True},
    ),
    "AWS::SecretsManager::SecretTargetAttachment": TargetAttachment(),
    "AWS::SecretsManager::ResourcePolicy": ApiProvider(
        service="secretsmanager",
        create_call="put_resource_policy",
        id="in.SecretId",
        key="SecretId",
        update_call="put_resource_policy",
        delete_call="delete_resource_policy",
        fixed=frozenset({"SecretId"}),
    ),
}
