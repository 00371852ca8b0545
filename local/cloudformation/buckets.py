"""Buckets: CloudFormation's spelling of their settings in the S3 API's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from local.cloudformation.provider import (
    ApiProvider,
    Created,
    Provider,
    ResourceFailure,
    ResourceRequest,
    call,
    delete,
    failure,
    to_api,
)

Properties = dict[str, Any]


def _encryption(value: Any) -> Any:
    rules = [
        {
            "BucketKeyEnabled": rule.get("BucketKeyEnabled", False),
            "ApplyServerSideEncryptionByDefault": rule["ServerSideEncryptionByDefault"],
        }
        for rule in value["ServerSideEncryptionConfiguration"]
    ]
    return {"Rules": rules}


def _lifecycle(value: Any) -> Any:
    return {"Rules": [_lifecycle_rule(rule) for rule in value["Rules"]]}


def _lifecycle_rule(rule: Mapping[str, Any]) -> Properties:
    result: Properties = {"ID": rule.get("Id", ""), "Status": rule["Status"]}
    result["Filter"] = {"Prefix": rule.get("Prefix", "")}
    expiration = {
        new: rule[old]
        for old, new in (
            ("ExpirationInDays", "Days"),
            ("ExpirationDate", "Date"),
            ("ExpiredObjectDeleteMarker", "ExpiredObjectDeleteMarker"),
        )
        if old in rule
    }
    if expiration:
        result["Expiration"] = expiration
    if "AbortIncompleteMultipartUpload" in rule:
        result["AbortIncompleteMultipartUpload"] = rule["AbortIncompleteMultipartUpload"]
    if "NoncurrentVersionExpirationInDays" in rule:
        result["NoncurrentVersionExpiration"] = {"NoncurrentDays": rule["NoncurrentVersionExpirationInDays"]}
    if "NoncurrentVersionExpiration" in rule:
        result["NoncurrentVersionExpiration"] = rule["NoncurrentVersionExpiration"]
    if "Transitions" in rule:
        result["Transitions"] = [
            {"StorageClass": item["StorageClass"], "Days": item["TransitionInDays"]}
            for item in rule["Transitions"]
        ]
    if "NoncurrentVersionTransitions" in rule:
        result["NoncurrentVersionTransitions"] = [
            {"StorageClass": item["StorageClass"], "NoncurrentDays": item["TransitionInDays"]}
            for item in rule["NoncurrentVersionTransitions"]
        ]
    return result


def _logging(value: Any) -> Any:
    target = {
        "TargetBucket": value.get("DestinationBucketName"),
        "TargetPrefix": value.get("LogFilePrefix", ""),
    }
    return {"LoggingEnabled": target}


def _cors(value: Any) -> Any:
    spelled = {"Id": "ID", "MaxAge": "MaxAgeSeconds", "ExposedHeaders": "ExposeHeaders"}
    return {
        "CORSRules": [
            {spelled.get(key, key): item for key, item in rule.items()} for rule in value["CorsRules"]
        ]
    }


def _same(value: Any) -> Any:
    return value


# property: the call that sets it, its parameter, and how the value is spelled there
_SETTINGS: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "VersioningConfiguration": ("put_bucket_versioning", "VersioningConfiguration", _same),
    "BucketEncryption": ("put_bucket_encryption", "ServerSideEncryptionConfiguration", _encryption),
    "LifecycleConfiguration": ("put_bucket_lifecycle_configuration", "LifecycleConfiguration", _lifecycle),
    "PublicAccessBlockConfiguration": (
        "put_public_access_block",
        "PublicAccessBlockConfiguration",
        _same,
    ),
    "OwnershipControls": ("put_bucket_ownership_controls", "OwnershipControls", _same),
    "CorsConfiguration": ("put_bucket_cors", "CORSConfiguration", _cors),
    "LoggingConfiguration": ("put_bucket_logging", "BucketLoggingStatus", _logging),
    "Tags": ("put_bucket_tagging", "Tagging", lambda tags: {"TagSet": tags}),
}
# settings that change nothing which anyone could see here
_KEPT_ONLY = {"BucketName", "NotificationConfiguration", "AccessControl", "ObjectLockEnabled"}


class Bucket:
    """An S3 bucket. Deleting one that holds objects fails, as on AWS."""

    def create(self, request: ResourceRequest) -> Created:
        """Create the bucket and put its settings."""
        properties, environment = request.properties, request.environment
        name = properties.get("BucketName") or request.name(63).lower()
        client = environment.client("s3")
        location = (
            {"CreateBucketConfiguration": {"LocationConstraint": environment.region}}
            if environment.region != "us-east-1"
            else {}
        )
        call(client, "create_bucket", Bucket=name, **location)
        self._settings(client, name, properties, {})
        suffix = environment.url_suffix
        return Created(
            name,
            {
                "Arn": f"arn:{environment.partition}:s3:::{name}",
                "DomainName": f"{name}.s3.{suffix}",
                "RegionalDomainName": f"{name}.s3.{environment.region}.{suffix}",
            },
        )

    def update(self, request: ResourceRequest, physical_id: str, old: Mapping[str, Any]) -> Created | None:
        """Put the settings that changed; another name is another bucket."""
        if request.properties.get("BucketName", physical_id) != physical_id:
            return None
        self._settings(request.environment.client("s3"), physical_id, request.properties, old)
        return Created(physical_id)

    def delete(self, request: ResourceRequest, physical_id: str, *, snapshot: bool) -> None:
        """Delete the bucket if it is empty."""
        delete(request.environment.client("s3"), "delete_bucket", Bucket=physical_id)

    def _settings(self, client: Any, bucket: str, new: Properties, old: Mapping[str, Any]) -> None:
        for key, value in new.items():
            if key in _KEPT_ONLY or old.get(key) == value:
                continue
            if key not in _SETTINGS:
                raise ResourceFailure(f"The embedded AWS does not support the property {key}")
            name, parameter, spelled = _SETTINGS[key]
            shape = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[name])
            given = to_api(shape.input_shape, {"Bucket": bucket, parameter: spelled(value)})
            try:
                getattr(client, name)(**given)
            except (ClientError, ParamValidationError) as error:
                raise failure(error) from error


def _policy(properties: Properties, request: ResourceRequest) -> Properties:
    document = json.dumps(properties["PolicyDocument"])
    return {"Bucket": properties["Bucket"], "Policy": document}


TYPES: dict[str, Provider] = {
    "AWS::S3::Bucket": Bucket(),
    "AWS::S3::BucketPolicy": ApiProvider(
        service="s3",
        create_call="put_bucket_policy",
        id="in.Bucket",
        key="Bucket",
        update_call="put_bucket_policy",
        delete_call="delete_bucket_policy",
        renamed={"PolicyDocument": "Policy"},
        fixed=frozenset({"Bucket"}),
        before=_policy,
    ),
}
