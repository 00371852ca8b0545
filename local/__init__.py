"""The embedded AWS: what `kit up` and the tests deploy to, and the processes that it runs.

product, state       an environment on this machine, and where its data are
person               a user of the account, and files that make a shell one
aws                  the embedded AWS as a whole: starts and stops the parts below
deploy               the real CDK CLI; docker_stand_in takes docker's place for it
endpoint             the loopback endpoint: every API call enters here, on its way to a double or to moto
authorization, iam   whether the caller's policies allow a call
credentials          whose an access key is; principals tells which policies users and roles have
sts, signatures      who signed, and who may have a session of which role
identity_providers   tokens of others, traded for sessions; token_issuer makes STS's own tokens
simulation           IAM's policy simulator
traffic              how often what was called, and refusals on order
cloudformation/      stacks: templates, change sets, rollback, and the resource types
ecs, services, tasks what ECS runs; log_stream takes its output
balancer, proxy      load balancers that listen
functions            Lambda; lambda_runtime is the child process of an invocation
rds, database        databases that are real servers; certificates for them, get_database to fetch one
get_mysqlclient      the server's driver in C, compiled; debian unpacks packages as plain files
s3, secrets_manager  objects and secrets that outlive a restart
patches              how moto's methods get something to do besides
"""
