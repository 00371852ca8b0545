"""CloudFormation: stacks, change sets, rollback and deletion policies, over the other doubled services."""
