"""Answers a custom resource, hands over to a second invocation first if asked, and tries what its role may not."""

import json
import os
import urllib.request

import boto3
from botocore.exceptions import ClientError


def handler(event, context):
    name = event["ResourceProperties"]["Name"]
    print(f"{event['RequestType']} for {name}, {context.get_remaining_time_in_millis()} ms left")
    if name == "crash":
        raise ValueError("no greeting for a crash")
    if name == "silent":
        return
    try:
        boto3.client("iam").list_roles()
    except ClientError as error:
        refusal = error.response["Error"]["Message"]
    else:
        refusal = "none"
    body = {
        "Status": "FAILED" if name == "nobody" and event["RequestType"] != "Delete" else "SUCCESS",
        "Reason": "nobody is there to be greeted",
        "PhysicalResourceId": "greeting",
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "Data": {
            "Text": f"Hello {name}, number {json.dumps(event['ResourceProperties']['Number'])}",
            "Refusal": refusal,
        },
    }
    print(refusal)
    request = urllib.request.Request(event["ResponseURL"], data=json.dumps(body).encode(), method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200, os.environ["AWS_REGION"]
