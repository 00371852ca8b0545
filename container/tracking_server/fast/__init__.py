"""The fast way through the server for the calls that a training job makes all day.

MLflow's own store writes a batch in four sessions of the ORM and its handlers build every answer three times over.
Here a call is a few plain statements in one transaction, and its answer is written as JSON at once:

* `transactions`, `writes`, `reads`: the statements, on the connections of the server's one pool.
* `store`: MLflow's tracking store with these statements, for MLflow's own handlers.
* `calls`: the HTTP calls that are answered without MLflow's handlers.
* `front`: the ASGI application that tells such calls from all others.
* `install`: puts these into MLflow's server.

Whatever is not plainly the common case (an error to report, a key that another's spelling collides with, a field that
is seldom sent) raises `Unusual` before anything is committed, and MLflow's own code does the whole call. So errors
are always MLflow's, and what is written here has to be right only for calls that succeed.

All of it knows the schema and the JSON of one MLflow, `VERSION`; with any other the server runs MLflow's own store.
"""

VERSION = "3.17.2"
"""The MLflow whose tables and answers this package knows."""
