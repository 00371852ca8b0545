"""The gate: who calls, proved by AWS; what they may do, decided by IAM; default deny, one line of audit a decision.

gate          the ASGI layer outside all of MLflow
authentication, tokens, sts, web_identity   who calls
permissions, engines, policy                what they may do: `iam` asks IAM, `roles` evaluates the kit's policies
routes        which action a method and path need (routes.json)
signed, marks bearers, sessions and one-use URLs, and what must be known to every task
own           the server's own routes under /iam
audit         one line a decision
"""
