"""The child process of one Lambda invocation: the event comes on standard input, the answer goes to a file."""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any


class Context:
    """What Lambda passes to a handler as its second argument."""

    function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    function_version = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
    invoked_function_arn = os.environ["_FUNCTION_ARN"]
    memory_limit_in_mb = os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
    aws_request_id = os.environ["_REQUEST_ID"]
    log_group_name = os.environ["AWS_LAMBDA_LOG_GROUP_NAME"]
    log_stream_name = aws_request_id

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function's timeout."""
        return max(int((float(os.environ["_DEADLINE"]) - time.time()) * 1000), 0)


def main() -> int:
    """Run the handler; the exit code is 1 when it raised."""
    sys.path[0] = str(Path.cwd())  # the function's code, in place of this file's folder
    module, _, name = os.environ["_HANDLER"].rpartition(".")
    answer = Path(os.environ["_ANSWER"])
    result: Any
    try:
        event = json.load(sys.stdin)
        result = getattr(importlib.import_module(module.replace("/", ".")), name)(event, Context())
    except Exception as error:
        traceback.print_exc()
        result = {"errorType": type(error).__name__, "errorMessage": str(error)}
        answer.write_text(json.dumps(result))
        return 1
    answer.write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
