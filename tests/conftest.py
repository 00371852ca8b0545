"""What every test process needs before anything imports the CDK."""

from __future__ import annotations

import os
import subprocess

os.environ.setdefault("CDK_VALIDATION", "false")  # twenty times faster; tests/security turns it on once
os.environ.setdefault("NODE_NO_WARNINGS", "1")
_node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", _node.lstrip("v").partition(".")[0])
# AWS is never asked by accident: no profile of the person who runs the tests reaches them
for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
    del os.environ[name]
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
