"""Reads the environment file that `-c env=<name>` names, and builds its stacks."""

import sys

import aws_cdk as cdk

from stacks.composition import compose
from stacks.environment_files import EnvironmentFileError, load

app = cdk.App()
try:
    environment = load(app.node.try_get_context("env"))
except EnvironmentFileError as error:
    sys.exit(str(error))
compose(app, environment)
app.synth()
