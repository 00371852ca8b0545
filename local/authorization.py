"""Which IAM actions on which resources an API call needs, and the refusal when a role's policies lack one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from moto.ecs.models import ecs_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends

from local.credentials import Credentials
from local.endpoint import ApiCall, ServiceError
from local.iam import Statement, decide

# what a call asks for: IAM actions, resources, and condition keys of the service
Needs = Iterator[tuple[str, str, dict[str, Any]]]

# IAM's prefix where it is not the service's own name
_PREFIXES = {"elbv2": "elasticloadbalancing"}

# IAM's name of an S3 operation where it is not the operation's own:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html
_S3_ACTIONS = {
    "HeadObject": "GetObject",
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListParts": "ListMultipartUploadParts",
    "ListBuckets": "ListAllMyBuckets",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "CopyObject": "PutObject",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
}
# calls that need no permission
_FREE = {("sts", "GetCallerIdentity")}


class Authorization:
    """Decides for calls that are signed with the credentials of a role's session."""

    def __init__(self, *, credentials: Credentials, account: str, partition: str) -> None:
        self._credentials, self._account, self._partition = credentials, account, partition

    def __call__(self, call: ApiCall) -> None:
        """Raise ServiceError where the caller is not allowed."""
        caller = self._credentials.caller(call.access_key)
        if caller is None or (call.service, call.name) in _FREE:
            return
        try:
            statements, boundary = self._credentials.policies(caller.role_arn)
        except Exception:
            raise _denied(call, caller.arn, call.name, "*", "because the role does not exist") from None
        common = {
            "aws:requestedregion": call.region,
            "aws:principalarn": caller.role_arn,
            "aws:principalaccount": self._account,
            "aws:resourceaccount": self._account,
            "aws:sourceaccount": self._account,
            "aws:securetransport": "true",  # loopback stands in for TLS
            "aws:sourceip": "127.0.0.1",
            "aws:userid": caller.user_id,
        }
        statements = [*statements, *self._denials(call)]
        for action, resource, keys in self._needs(call):
            context = {**common, **keys}
            allowed, reason = decide(
                statements=statements,
                boundary=boundary,
                action=action,
                resource=resource,
                context=context,
            )
            if not allowed:
                raise _denied(call, caller.arn, action, resource, reason)

    def _denials(self, call: ApiCall) -> list[Statement]:
        """What the policy of a call's bucket denies to everyone."""
        store = s3_backends[self._account][self._partition].buckets if call.service == "s3" else {}
        bucket = store.get(call.path_parameters.get("Bucket", ""))
        if bucket is None or bucket.policy is None:
            return []
        found = json.loads(bucket.policy)["Statement"]
        everyone: tuple[Any, ...] = ("*", {"AWS": "*"}, {"AWS": ["*"]})
        return [
            statement
            for statement in (found if isinstance(found, list) else [found])
            if statement["Effect"] == "Deny" and statement.get("Principal") in everyone
        ]

    def _needs(self, call: ApiCall) -> Needs:
        special: dict[str, Callable[[ApiCall], Needs]] = {
            "s3": self._s3,
            "ecs": self._ecs,
            "secretsmanager": self._secrets,
            "logs": self._logs,
            "cloudformation": self._stacks,
            "iam": self._iam,
            "sts": self._sts,
            "kms": self._kms,
            "ssm": self._ssm,
            "lambda": self._lambda,
            "ecr": self._ecr,
        }
        if call.service in special:
            yield from special[call.service](call)
        else:
            yield f"{_PREFIXES.get(call.service, call.service)}:{call.name}", "*", {}

    def _arn(self, call: ApiCall, resource: str, *, service: str | None = None) -> str:
        return f"arn:{self._partition}:{service or call.service}:{call.region}:{self._account}:{resource}"

    def _s3(self, call: ApiCall) -> Needs:
        bucket, key = call.path_parameters.get("Bucket"), call.path_parameters.get("Key")
        action = f"s3:{_S3_ACTIONS.get(call.name, call.name)}"
        if bucket is None:
            yield action, "*", {}
            return
        root = f"arn:{self._partition}:s3:::{bucket}"
        query = call.request.args
        versioned = "Version" if query.get("versionId") else ""
        if call.name == "DeleteObjects":
            for item in call.parameters["Delete"]["Objects"]:
                suffix = "Version" if item.get("VersionId") else ""
                yield f"s3:DeleteObject{suffix}", f"{root}/{item['Key']}", {}
            return
        if key is None:
            keys = {
                f"s3:{name}": query[name] for name in ("prefix", "delimiter", "max-keys") if name in query
            }
            yield action, root, keys
            return
        if action in ("s3:GetObject", "s3:DeleteObject"):
            action += versioned
        headers = call.request.headers
        condition = {
            f"s3:{name}": headers[name]
            for name in (
                "x-amz-server-side-encryption",
                "x-amz-server-side-encryption-aws-kms-key-id",
                "x-amz-acl",
            )
            if name in headers
        }
        yield action, f"{root}/{key}", condition
        if headers.get("x-amz-tagging"):
            yield "s3:PutObjectTagging", f"{root}/{key}", {}
        if source := headers.get("x-amz-copy-source"):
            yield (
                "s3:GetObject",
                f"arn:{self._partition}:s3:::{unquote(source).lstrip('/').split('?')[0]}",
                {},
            )

    def _ecs(self, call: ApiCall) -> Needs:
        request = call.parameters
        cluster = str(request.get("cluster", "default"))
        name = cluster.rsplit("/", 1)[-1]
        arn = cluster if cluster.startswith("arn:") else self._arn(call, f"cluster/{name}")
        keys = {"ecs:cluster": arn}
        action = f"ecs:{call.name}"
        if call.name in ("RunTask", "StartTask"):
            definition = self._definition_arn(call, request["taskDefinition"])
            yield action, definition, keys
            yield from self._passed_roles(call, definition)
        elif call.name in ("DescribeTasks", "StopTask", "ExecuteCommand"):
            for task in _listed(request.get("tasks", request.get("task"))):
                yield action, self._within(call, "task", name, task), keys
        elif call.name in ("UpdateService", "DeleteService", "DescribeServices", "CreateService"):
            named = request.get("services") or request.get("service") or request.get("serviceName")
            for service in _listed(named):
                yield action, self._within(call, "service", name, service), keys
            if request.get("taskDefinition"):
                yield from self._passed_roles(call, self._definition_arn(call, request["taskDefinition"]))
        elif call.name in ("ListTasks", "ListServices"):
            yield action, "*", keys
        elif call.name == "DescribeClusters":
            for item in _listed(request.get("clusters", "default")):
                yield action, item if item.startswith("arn:") else self._arn(call, f"cluster/{item}"), {}
        elif call.name in ("UpdateCluster", "DeleteCluster", "PutClusterCapacityProviders"):
            yield action, arn, {}
        else:
            yield action, "*", {}

    def _within(self, call: ApiCall, kind: str, cluster: str, name: str) -> str:
        return name if name.startswith("arn:") else self._arn(call, f"{kind}/{cluster}/{name}")

    def _definition_arn(self, call: ApiCall, name: str) -> str:
        return name if name.startswith("arn:") else self._arn(call, f"task-definition/{name}")

    def _passed_roles(self, call: ApiCall, definition: str) -> Needs:
        found = ecs_backends[self._account][call.region].describe_task_definition(definition)
        for attribute in ("task_role_arn", "execution_role_arn"):
            if role := getattr(found, attribute, None):
                yield "iam:PassRole", role, {"iam:passedtoservice": "ecs-tasks.amazonaws.com"}

    def _secrets(self, call: ApiCall) -> Needs:
        action, name = f"secretsmanager:{call.name}", call.parameters.get("SecretId")
        if name is None:
            name = call.parameters.get("Name")
            yield action, self._arn(call, f"secret:{name}-??????") if name else "*", {}
            return
        yield action, self._secret_arn(call, name), {"secretsmanager:versionstage": "AWSCURRENT"}

    def _secret_arn(self, call: ApiCall, name: str) -> str:
        store = secretsmanager_backends[self._account][call.region].secrets
        return (
            str(store[name].arn)
            if name in store
            else name
            if name.startswith("arn:")
            else self._arn(call, f"secret:{name}")
        )

    def _logs(self, call: ApiCall) -> Needs:
        request = call.parameters
        group = request.get("logGroupName") or request.get("logGroupIdentifier")
        if group is None:
            yield f"logs:{call.name}", "*", {}
            return
        group = group.split(":log-group:")[-1].removesuffix(":*")
        stream = request.get("logStreamName")
        resource = f"log-group:{group}:log-stream:{stream}" if stream else f"log-group:{group}:*"
        yield f"logs:{call.name}", self._arn(call, resource), {}

    def _stacks(self, call: ApiCall) -> Needs:
        name = call.parameters.get("StackName") or call.parameters.get("ChangeSetName")
        if name is None:
            resource = "*"
        elif name.startswith("arn:"):
            resource = name
        else:
            resource = self._arn(call, f"stack/{name}/*")
        yield f"cloudformation:{call.name}", resource, {}
        if role := call.parameters.get("RoleARN"):
            yield "iam:PassRole", role, {"iam:passedtoservice": "cloudformation.amazonaws.com"}

    def _iam(self, call: ApiCall) -> Needs:
        request = call.parameters
        root = f"arn:{self._partition}:iam::{self._account}"
        if request.get("PolicySourceArn"):
            resource = request["PolicySourceArn"]
        elif request.get("RoleName"):
            resource = f"{root}:role/{request['RoleName']}"
        elif request.get("PolicyArn"):
            resource = request["PolicyArn"]
        elif request.get("UserName"):
            resource = f"{root}:user/{request['UserName']}"
        else:
            resource = "*"
        yield f"iam:{call.name}", resource, {}

    def _sts(self, call: ApiCall) -> Needs:
        yield f"sts:{call.name}", call.parameters.get("RoleArn", "*"), {}

    def _kms(self, call: ApiCall) -> Needs:
        key = str(call.parameters.get("KeyId", "*"))
        if key.startswith("alias/"):
            key = self._arn(call, key)
        elif key != "*" and not key.startswith("arn:"):
            key = self._arn(call, f"key/{key}")
        yield f"kms:{call.name}", key, {}

    def _ssm(self, call: ApiCall) -> Needs:
        request = call.parameters
        names = request.get("Names") or request.get("Name") or request.get("Path")
        for name in _listed(names) or ["*"]:
            arn = (
                name
                if name.startswith("arn:") or name == "*"
                else self._arn(call, f"parameter/{name.lstrip('/')}")
            )
            yield f"ssm:{call.name}", arn, {}

    def _lambda(self, call: ApiCall) -> Needs:
        name = call.parameters.get("FunctionName")
        action = "lambda:InvokeFunction" if call.name in ("Invoke", "InvokeAsync") else f"lambda:{call.name}"
        if name is None:
            yield action, "*", {}
        else:
            yield action, name if name.startswith("arn:") else self._arn(call, f"function:{name}"), {}

    def _ecr(self, call: ApiCall) -> Needs:
        request = call.parameters
        for name in _listed(request.get("repositoryNames") or request.get("repositoryName")) or ["*"]:
            yield f"ecr:{call.name}", name if name == "*" else self._arn(call, f"repository/{name}"), {}


def _listed(value: Iterable[str] | str | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _denied(call: ApiCall, caller: str, action: str, resource: str, reason: str) -> ServiceError:
    # the JSON protocols spell it with "Exception"; IAM, STS, S3 and CloudFormation do not
    code = "AccessDeniedException" if "json" in call.protocol else "AccessDenied"
    on = f" on resource: {resource}" if resource != "*" else ""
    error = ServiceError(code, f"User: {caller} is not authorized to perform: {action}{on} {reason}")
    error.status = 400 if call.protocol == "json" else 403
    return error
