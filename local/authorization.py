"""Which IAM actions on which resources an API call needs, and the refusal when the caller's policies lack one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote

from moto.ecs.models import ecs_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends

from local.credentials import Caller, Credentials
from local.endpoint import ApiCall, ServiceError
from local.iam import Context, Statement, decide, effect_of

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
# calls that need no permission, and those about which STS asks the trust policy too
_FREE = {
    ("sts", "GetCallerIdentity"),
    ("sts", "AssumeRole"),
    ("sts", "AssumeRoleWithWebIdentity"),
}
# calls of IAM that are about the calling user where they name none
_OF_ONESELF = {"GetUser", "ListAccessKeys", "CreateAccessKey", "DeleteAccessKey", "UpdateAccessKey"}
# how services say that an access key is not known, where it is not as STS and IAM do
_UNKNOWN_KEY = {"json": ("UnrecognizedClientException", 400), "rest-xml": ("InvalidAccessKeyId", 403)}


class Authorization:
    """Decides for calls that are signed with the access key of a user or of a role's session."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._account, self._partition = credentials.account, credentials.partition

    def __call__(self, call: ApiCall) -> None:
        """Raise ServiceError where the caller is not allowed."""
        if not self._credentials.restricted(call.access_key) or (call.service, call.name) in _FREE:
            return
        caller = self._credentials.caller(call.access_key)
        if caller is None:
            code, status = _UNKNOWN_KEY.get(call.protocol, ("InvalidClientTokenId", 403))
            error = ServiceError(code, "The security token included in the request is invalid.")
            error.status = status
            raise error
        for action, resource, keys in self._needs(call):
            self._require(call, caller, action, resource, keys)

    def _require(self, call: ApiCall, caller: Caller, action: str, resource: str, keys: Context) -> None:
        """Raise ServiceError where a caller's policies do not allow an action."""
        try:
            policies = self._credentials.policies(caller)
            context = {**self._credentials.context(caller, call.region), **keys}
        except ServiceError as gone:
            raise denied(
                call, caller.arn, action, "*", f"because it does not exist: {gone.message}"
            ) from None
        allowed, reason = decide(
            statements=[*policies.statements, *self._denials(call)],
            boundary=policies.limits,
            action=action,
            resource=resource,
            context=context,
        )
        limits = caller.session.limits if caller.session else None
        if allowed and limits is not None and effect_of(limits, action, resource, context)[0] != "allowed":
            allowed, reason = False, f"because no session policy allows the {action} action"
        if not allowed:
            raise denied(call, caller.arn, action, resource, reason)

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
        resource = request.get("PolicySourceArn") or request.get("PolicyArn")
        for kind in ("role", "user", "group"):
            name = request.get(f"{kind.title()}Name")
            if name and not request.get("PolicySourceArn"):
                resource = self._entity_arn(kind, name, request.get("Path", "/"))
        caller = self._credentials.caller(call.access_key)
        if resource is None and call.name in _OF_ONESELF and caller is not None:
            resource = caller.principal
        yield f"iam:{call.name}", resource or "*", {}

    def _entity_arn(self, kind: str, name: str, path: str) -> str:
        entity = self._credentials.principals.named(kind, name)
        return entity.arn if entity else f"arn:{self._partition}:iam::{self._account}:{kind}{path}{name}"

    def _sts(self, call: ApiCall) -> Needs:
        request = call.parameters
        keys = {}
        if call.name == "GetWebIdentityToken":
            keys = {
                "sts:identitytokenaudience": request.get("Audience", []),
                "sts:signingalgorithm": request.get("SigningAlgorithm", ""),
                "sts:durationseconds": str(request.get("DurationSeconds", 300)),
            }
            if labels := request.get("Tags"):
                named = {f"aws:requesttag/{item['Key'].lower()}": item["Value"] for item in labels}
                named["aws:tagkeys"] = [item["Key"] for item in labels]
                yield "sts:TagGetWebIdentityToken", "*", {**keys, **named}
        yield f"sts:{call.name}", "*", keys

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


def denied(call: ApiCall, caller: str, action: str, resource: str, reason: str) -> ServiceError:
    """The refusal of a call, in AWS's words."""
    # the JSON protocols spell it with "Exception"; IAM, STS, S3 and CloudFormation do not
    code = "AccessDeniedException" if "json" in call.protocol else "AccessDenied"
    on = f" on resource: {resource}" if resource != "*" else ""
    error = ServiceError(code, f"User: {caller} is not authorized to perform: {action}{on} {reason}".rstrip())
    error.status = 400 if call.protocol == "json" else 403
    return error
