"""Random sequences of operations: sequence n is always the same.

An operation names the runs and experiments of its sequence by what stands between « and », which the sender replaces:
«run 0» is the id of the first run created, «RUN 0» the same in capitals, «experiment 0» the id of the first experiment,
«prefix» a text that no other sequence has, and «raw …» in a JSON string is the text itself, without the quotes.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from .values import (
    ALIKE_KEYS,
    BAD_KEYS,
    EXPERIMENT_ORDERS,
    FILTERS,
    KEYS,
    LONG_TEXTS,
    METRIC_VALUES,
    ORDERS,
    STEPS,
    TEXTS,
    TIMES,
    WRONG,
)
from .wire import shortened

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call.

    `body` is JSON to be, or text or bytes to be sent as they are; `pages` follows the tokens of the answers to the
    last page. `names` is False for a run whose name is left to the server.
    """

    method: str
    path: str
    body: Body | str | bytes | None = None
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    pages: bool = False
    compress: bool = False

    @property
    def makes(self) -> str:
        """`run` or `experiment` when a success makes one, else empty."""
        return next((what for what in ("run", "experiment") if self._route.endswith(f"/{what}s/create")), "")

    @property
    def _route(self) -> str:
        return self.path.partition("?")[0]

    def __str__(self) -> str:
        content = self.content()
        text = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content or b""
        return f"{self.method} {self.path} {self.headers} {shortened(text).decode(errors='backslashreplace')}"

    def content(self) -> str | bytes | None:
        """The body as text with what stands between « and », or as bytes."""
        return json.dumps(self.body, ensure_ascii=False) if isinstance(self.body, dict) else self.body

    def encoded(self, content: bytes) -> bytes:
        """The body as it is sent."""
        return gzip.compress(content, mtime=0) if self.compress else content


def sequence(seed: int, number: int) -> list[Operation]:
    """The operations of a sequence."""
    return _Maker(random.Random(f"{seed}/{number}")).sequence()  # noqa: S311


class _Maker:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._runs = 0
        self._experiments = 0
        # a random name would have its own place in an order by name
        self._all_named = chance.random() < 0.5
        # few keys, so that they meet again
        self._keys = [*chance.sample(KEYS, 4), "loss", "a"]
        # MLflow waits up to 15 s before it gives up on two tags that are the same to MySQL
        self._alike = chance.random() < 0.04
        # most sequences are mostly well formed
        self._trouble = chance.choice((0.0, 0.02, 0.1, 0.3))

    def sequence(self) -> list[Operation]:
        operations = [self._create_experiment(first=True)]
        if self._often(0.2):
            operations.append(self._create_experiment(first=True))
        operations.append(self._create_run(first=True))
        kinds, weights = zip(*_WEIGHTS, strict=True)
        for _ in range(self._chance.randint(3, 12)):
            make: Callable[[_Maker], Operation] = self._chance.choices(kinds, weights)[0]
            operations.append(self._troubled(make(self)))
        for run in range(min(self._runs, 3)):
            operations.append(self._call("GET", "runs/get", query={"run_id": f"«run {run}»"}))
        return operations

    # what the operations are made of

    def _often(self, probability: float) -> bool:
        return self._chance.random() < probability

    def _pick(self, values: Any) -> Any:
        return self._chance.choice(values)

    def _key(self) -> str:
        if self._often(self._trouble * 0.3):
            return self._pick(BAD_KEYS)
        if self._alike and self._often(0.3):
            return self._pick(ALIKE_KEYS)
        return self._pick(self._keys) if self._often(0.8) else self._pick(KEYS)

    def _text(self) -> str:
        if self._often(0.03):
            return self._pick(LONG_TEXTS)
        return self._pick(TEXTS) if self._often(0.3) else str(self._chance.randint(0, 2))

    def _run(self) -> str:
        roll = self._chance.random()
        if roll < 0.93 or not self._trouble:
            return f"«run {self._chance.randrange(max(1, self._runs))}»"
        return self._pick(
            (
                "«RUN 0»",
                "«run 99»",
                "",
                "xyz",
                "0" * 32,
                "a b",
                "ä",
                "x" * 300,
                "«run 0» ",
                "«run 0»'--",
                "é\u0000",
            )
        )

    def _experiment(self) -> str:
        if self._often(0.95) or not self._trouble:
            return f"«experiment {self._chance.randrange(max(1, self._experiments))}»"
        return self._pick(
            ("«experiment 99»", "", "abc", "-1", "0«experiment 0»", " «experiment 0»", "99999999999", "1.0")
        )

    def _one_run(self, **fields: Any) -> Body:
        run, roll = self._run(), self._chance.random()
        if roll < 0.92:
            return {"run_id": run, **fields}
        if roll < 0.95:
            return {"run_uuid": run, **fields}
        if roll < 0.98:
            return {**fields, "run_id": run, "run_uuid": self._run()}
        return {"run_uuid": run, "run_id": "", **fields}

    def _metric(self) -> Body:
        metric: Body = {"key": self._key(), "value": self._pick(METRIC_VALUES)}
        if self._often(0.4):
            metric["value"] = self._chance.randint(0, 3) / 2
        metric["timestamp"] = self._pick(TIMES) if self._often(0.3) else self._chance.randint(0, 3)
        if self._often(0.85):
            metric["step"] = self._pick(STEPS) if self._often(0.3) else self._chance.randint(0, 3)
        if self._often(0.04):
            metric["model_id"] = self._pick(("", "", "m-1", "m" * 37))
        if self._often(0.03):
            metric |= {"dataset_name": self._text(), "dataset_digest": self._pick(("d1", "d2", ""))}
        if self._often(0.02):
            metric["run_id"] = self._run()
        if self._often(self._trouble * 0.2):
            metric[self._pick(("key", "value", "timestamp", "step"))] = self._pick(WRONG)
        return metric

    def _pair(self) -> Body:
        pair: Body = {"key": self._key(), "value": self._text()}
        if self._often(self._trouble * 0.2):
            pair[self._pick(("key", "value"))] = self._pick(WRONG)
        if self._often(self._trouble * 0.1):
            del pair[self._pick(("key", "value"))]
        return pair

    def _many(self, make: Callable[[], Body], most: int) -> list[Body]:
        """A list, now and then with one of its items twice."""
        made = [make() for _ in range(self._chance.randint(0, most))]
        if made and self._often(0.1):
            made.insert(self._chance.randrange(len(made) + 1), dict(self._pick(made)))
        return made

    def _call(
        self, method: str, path: str, body: Body | None = None, query: Body | None = None, **options: Any
    ) -> Operation:
        prefix = self._pick(("/api/2.0/mlflow/", "/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/"))
        if path.startswith("ajax:"):
            prefix, path = "/ajax-api/2.0/mlflow/", path.removeprefix("ajax:")
        if query:
            pairs = ((name, each) for name, value in query.items() for each in _listed(value))
            path += "?" + "&".join(f"{quote(name)}={_quoted(str(value))}" for name, value in pairs)
        return Operation(method=method, path=prefix + path, body=body, **options)

    # the operations

    def _create_experiment(self, *, first: bool = False) -> Operation:
        name = "«prefix»" + self._pick(("", " ä😀", "_%", "x" * 100)) + str(self._experiments)
        body: Body = {"name": name}
        if self._often(0.3):
            body["tags"] = self._many(self._pair, 3) if not first else [{"key": "team", "value": "a"}]
        if not first and self._often(0.2):
            body["name"] = self._pick(("", "Default", "«prefix»0", "x" * 501, "a\u0000b", "  "))
        if not first and self._often(0.1):
            body["artifact_location"] = self._pick(
                ("s3://b/«prefix»", "", "mlflow-artifacts:/x", "a#b", "s3://b?q")
            )
        self._experiments += 1
        return self._call("POST", "experiments/create", body)

    def _create_run(self, *, first: bool = False) -> Operation:
        body: Body = {"experiment_id": "«experiment 0»" if first else self._experiment()}
        if self._all_named or self._often(0.6):
            body["run_name"] = (
                f"run {self._chance.randint(0, 5)}" if self._often(0.8) else self._text() or "n"
            )
        if self._often(0.6):
            body["start_time"] = self._pick(TIMES) if self._often(0.2) else self._chance.randint(0, 3)
        if self._often(0.5):
            body["user_id"] = self._text()
        if self._often(0.5):
            tags = self._many(self._pair, 3)
            # MLflow refuses a tag twice
            body["tags"] = (
                list({str(tag.get("key")): tag for tag in tags}.values()) if self._often(0.9) else tags
            )
        if first:
            return self._run_with(body)
        if self._often(0.1):
            named = {
                "key": "mlflow.runName",
                "value": self._pick(("tagged", "run 1", "", body.get("run_name", "t"))),
            }
            body.setdefault("tags", []).append(named)
        return self._run_with(body)

    def _run_with(self, body: Body) -> Operation:
        self._runs += 1
        return self._call("POST", "runs/create", body)

    def _log_batch(self) -> Operation:
        body = self._one_run()
        roll = self._chance.random()
        if roll < 0.02:
            return self._call("POST", "runs/log-batch", self._large_batch(body))
        for name, make, most in (
            ("metrics", self._metric, 6),
            ("params", self._pair, 4),
            ("tags", self._pair, 4),
        ):
            if self._often(0.7):
                body[name] = self._many(make, most)
        if self._often(0.08):
            value = self._pick(("renamed", "", "ä😀", "run 1"))
            body.setdefault("tags", []).append({"key": "mlflow.runName", "value": value})
        return self._call("POST", "runs/log-batch", body)

    def _large_batch(self, body: Body) -> Body:
        metrics, params, tags = self._pick(
            (
                (1000, 0, 0),
                (1001, 0, 0),
                (900, 100, 0),
                (800, 100, 100),
                (801, 100, 100),
                (1, 101, 1),
                (0, 0, 101),
            )
        )
        body["metrics"] = [
            {"key": f"m{i % 300}", "value": i / 7, "timestamp": i % 3, "step": i % 5} for i in range(metrics)
        ]
        body["params"] = [{"key": f"p{i}", "value": str(i)} for i in range(params)]
        body["tags"] = [{"key": f"t{i}", "value": str(i)} for i in range(tags)]
        return body

    def _log_metric(self) -> Operation:
        metric = self._metric()
        metric.pop("run_id", None)
        return self._call("POST", "runs/log-metric", self._one_run(**metric))

    def _log_param(self) -> Operation:
        return self._call("POST", "runs/log-parameter", self._one_run(**self._pair()))

    def _set_tag(self) -> Operation:
        pair = self._pair()
        if self._often(0.1):
            pair["key"] = "mlflow.runName"
        return self._call("POST", "runs/set-tag", self._one_run(**pair))

    def _delete_tag(self) -> Operation:
        key = "mlflow.runName" if self._often(0.1) else self._key()
        return self._call("POST", "runs/delete-tag", {"run_id": self._run(), "key": key})

    def _experiment_tag(self) -> Operation:
        what = self._pick(("set-experiment-tag", "set-experiment-tag", "delete-experiment-tag"))
        pair = self._pair()
        if what.startswith("delete"):
            pair.pop("value", None)
        return self._call("POST", f"experiments/{what}", {"experiment_id": self._experiment(), **pair})

    def _log_model(self) -> Operation:
        model = {
            "artifact_path": "model",
            "flavors": {"f": {"v": 1}},
            "utc_time_created": "2024-01-01 00:00:00",
        }
        model["run_id"] = self._run()
        if self._often(0.2):
            del model[self._pick(list(model))]
        text = json.dumps(model) if self._often(0.9) else self._pick(("", "{", "[]", "1"))
        return self._call("POST", "runs/log-model", {"run_id": self._run(), "model_json": text})

    def _log_inputs(self) -> Operation:
        def dataset() -> Body:
            digest = self._pick(("d1", "d2", "d" * 37))
            made: Body = {"name": self._pick(("data", "Data", "ä😀", "")), "digest": digest}
            made |= {"source_type": "local", "source": self._text() or "{}"}
            if self._often(0.5):
                made["schema"] = self._text()
            tags = [{"key": "mlflow.data.context", "value": self._text()}] if self._often(0.7) else []
            return {"tags": tags, "dataset": made}

        body = {"run_id": self._run(), "datasets": self._many(dataset, 2)}
        if self._often(0.3):
            body["models"] = [{"model_id": self._pick(("m-1", "m-2", ""))}]
        return self._call("POST", "runs/log-inputs", body)

    def _log_outputs(self) -> Operation:
        models = [{"model_id": self._pick(("m-1", "m-2")), "step": self._chance.randint(0, 2)}]
        return self._call("POST", "runs/outputs", {"run_id": self._run(), "models": models})

    def _update_run(self) -> Operation:
        body = self._one_run()
        if self._often(0.6):
            body["status"] = self._pick(
                ("FINISHED", "RUNNING", "FAILED", "KILLED", "SCHEDULED", "finished", 3, "3", "", "X")
                if self._often(self._trouble)
                else ("FINISHED", "RUNNING", "FAILED", "KILLED", "SCHEDULED")
            )
        if self._often(0.5):
            body["end_time"] = self._pick(TIMES)
        if self._often(0.4):
            body["run_name"] = self._text()
        return self._call("POST", "runs/update", body)

    def _get_run(self) -> Operation:
        name = self._pick(("run_id", "run_id", "run_id", "run_uuid"))
        query = {name: self._run()}
        if self._often(0.05):
            query[self._pick(("run_id", "run_uuid", "x"))] = self._run()
        return self._call("GET", "runs/get", query=query)

    def _search_runs(self) -> Operation:
        body: Body = {"experiment_ids": [self._experiment() for _ in range(self._pick((1, 1, 1, 2, 0)))]}
        named = self._all_named
        if self._often(0.6):
            filters = [self._filled(self._pick(FILTERS)) for _ in range(self._pick((1, 1, 2, 3)))]
            body["filter"] = " and ".join(each for each in filters if named or "name" not in each)
        if self._often(0.6):
            orders = [self._filled(self._pick(ORDERS)) for _ in range(self._pick((1, 1, 2, 3)))]
            body["order_by"] = [each for each in orders if named or "name" not in each.lower()]
        if self._often(0.4):
            body["run_view_type"] = self._pick(("ACTIVE_ONLY", "DELETED_ONLY", "ALL"))
        if self._often(0.5):
            body["max_results"] = self._chance.randint(1, 3)
        if self._often(self._trouble * 0.3):
            body["max_results"] = self._pick((0, -1, 50000, 50001, "2", 1.0, 1.5, None, True))
        if self._often(self._trouble * 0.2):
            body["page_token"] = self._pick(("", "x", "e30=", "eyJvZmZzZXQiOiAxfQ==", "eyJvZmZzZXQiOiAtMX0="))
        return self._call("POST", "runs/search", body, pages="page_token" not in body)

    def _filled(self, text: str) -> str:
        key = self._key().replace("`", "")
        return text.replace("{key}", key).replace("{text}", self._text()[:20].replace("'", ""))

    def _experiments_read(self) -> Operation:
        what = self._pick(("get", "get-by-name", "search", "search-get"))
        if what == "get":
            return self._call("GET", "experiments/get", query={"experiment_id": self._experiment()})
        if what == "get-by-name":
            name = self._pick(("«prefix»0", "«prefix»9", "", "DEFAULT"))
            return self._call("GET", "experiments/get-by-name", query={"experiment_name": name})
        # others make experiments at the same time
        body: Body = {"filter": "name LIKE '«prefix»%'", "max_results": self._chance.randint(1, 3)}
        if self._often(0.3):
            body["filter"] += " AND " + self._pick(
                ("tags.team = 'a'", "name ILIKE '%X%'", "tag.`a` != '1'", "x = 1")
            )
        if self._often(0.5):
            body["order_by"] = [self._pick(EXPERIMENT_ORDERS)]
        if self._often(0.5):
            body["view_type"] = self._pick(("ACTIVE_ONLY", "DELETED_ONLY", "ALL"))
        if what == "search":
            return self._call("POST", "experiments/search", body, pages=True)
        return self._call("GET", "experiments/search", query=body)

    def _history(self) -> Operation:
        key = self._key()
        kind = self._pick(("one", "one", "bulk", "interval"))
        if kind == "one":
            query: Body = {"run_id": self._run(), "metric_key": key}
            if self._often(0.5):
                wrong = ("0", "-1", "x", "")
                query["max_results"] = self._pick(wrong if self._often(self._trouble) else (1, 2, 3))
            return self._call("GET", "metrics/get-history", query=query, pages=True)
        runs = [self._run() for _ in range(self._chance.randint(1, 3))]
        if kind == "bulk":
            query = {"run_id": runs, "metric_key": key}
        else:
            query = {"run_ids": runs, "metric_key": key}
            if self._often(0.4):
                query |= {"start_step": self._chance.randint(-1, 2), "end_step": self._chance.randint(0, 4)}
        if self._often(0.5):
            query["max_results"] = self._chance.randint(1, 5)
        path = "ajax:metrics/get-history-bulk" + ("-interval" if kind == "interval" else "")
        return self._call("GET", path, query=query)

    def _lifecycle(self) -> Operation:
        what = self._pick(("delete", "delete", "restore"))
        return self._call("POST", f"runs/{what}", {"run_id": self._run()})

    def _experiment_lifecycle(self) -> Operation:
        what = self._pick(("delete", "restore", "restore", "update"))
        body = {"experiment_id": self._experiment()}
        if what == "update":
            body["new_name"] = self._pick(("«prefix»renamed", "«prefix»0", "", "«prefix»😀"))
        return self._call("POST", f"experiments/{what}", body)

    # what can be wrong with them

    def _troubled(self, operation: Operation) -> Operation:
        if not self._often(self._trouble * 0.4):
            return operation
        if operation.method == "GET" or self._often(0.3):
            return self._badly_sent(operation)
        body = operation.body
        if isinstance(body, dict) and self._often(0.7):
            return replace(operation, body=self._other_fields(body))
        return replace(operation, body=self._other_text(str(operation.content())), pages=False)

    def _badly_sent(self, operation: Operation) -> Operation:
        kind = self._pick(("type", "type", "type", "method", "query", "path", "gzip", "from", "from"))
        if kind == "type":
            types = ("", "text/plain", "application/json; charset=utf-8", "application/json;charset=latin-1")
            types += (
                "APPLICATION/JSON",
                "application/x-www-form-urlencoded",
                "application/jsonx",
                "application/json ,",
            )
            headers = {"Content-Type": chosen} if (chosen := self._pick(types)) else {}
            return replace(operation, headers=headers)
        if kind == "from":
            others = (
                {"Origin": "http://mlflow.example.com"},
                {"Origin": "http://other.example"},
                {"Host": "other"},
            )
            return replace(operation, headers={**operation.headers, **self._pick(others)})
        if kind == "method":
            return replace(
                operation, method=self._pick(("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"))
            )
        if kind == "query":
            joint = "&" if "?" in operation.path else "?"
            more = self._pick(("run_id=«run 0»", "x=1", "run_uuid=", "max_results=1", "%ff=%00"))
            return replace(operation, path=operation.path + joint + more)
        if kind == "gzip" and operation.body is not None:
            headers = {
                **operation.headers,
                "Content-Encoding": self._pick(("gzip", "gzip", "identity", "br")),
            }
            return replace(operation, headers=headers, compress=self._often(0.7))
        path, mark, query = operation.path.partition("?")
        path = self._pick(
            (path + "/", path.replace("mlflow", "MLFLOW"), path.replace("2.0/", "2.0/preview/"))
        )
        return replace(operation, path=path + mark + query)

    def _other_fields(self, body: Body) -> Body:
        body = dict(body)
        name = self._pick(list(body)) if body else "run_id"
        kind = self._pick(("camel", "camel", "both", "unknown", "null", "wrong", "wrong", "drop"))
        head, *rest = name.split("_")
        camel = head + "".join(part.title() for part in rest)
        if kind == "camel":
            return {camel if each == name else each: value for each, value in body.items()}
        if kind == "both":
            return {**body, camel: body.get(name)}
        if kind == "unknown":
            return {**body, self._pick(("unknown", "", "Run_id", "ä")): self._pick(WRONG)}
        if kind == "drop":
            body.pop(name, None)
            return body
        return {**body, name: None if kind == "null" else self._pick(WRONG)}

    def _other_text(self, text: str) -> str | bytes:
        return self._pick(
            (
                "",
                "   ",
                "{}",
                "[]",
                f"[{text}]",
                json.dumps(text, ensure_ascii=False),  # encoded twice, as old clients do
                text + text,
                text[:-1],
                text.replace("{", '{"run_id": "0", ', 1),
                text.replace("{", '{"key": "other", ', 1),
                text.replace(":", " :\t", 1),
                text.replace("}", ",}", 1),
                "\ufeff" + text,
                text.replace('"', "'"),
                text.replace("a", "\\u0061"),
                text.replace("a", "\\ud800", 1),
                text.encode().replace(b"a", b"\xff", 1),
                text.encode("utf-16-le"),
                text.replace("a", "a\n", 1),
                "null",
                "0",
                "true",
                "NaN",
            )
        )


def _quoted(value: str) -> str:
    """A query's value, in which the names of runs and experiments are left to be replaced."""
    return "".join(
        part if part.startswith("«") else quote(part, safe="") for part in re.split("(«[^»]*»)", value)
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


_WEIGHTS: list[tuple[Callable[[_Maker], Operation], float]] = [
    (_Maker._log_batch, 6),
    (_Maker._log_metric, 3),
    (_Maker._log_param, 2),
    (_Maker._set_tag, 2),
    (_Maker._delete_tag, 1),
    (_Maker._create_run, 3),
    (_Maker._update_run, 2),
    (_Maker._get_run, 3),
    (_Maker._search_runs, 4),
    (_Maker._history, 2),
    (_Maker._experiments_read, 1.5),
    (_Maker._experiment_tag, 0.7),
    (_Maker._lifecycle, 1.2),
    (_Maker._experiment_lifecycle, 0.5),
    (_Maker._create_experiment, 0.3),
    (_Maker._log_inputs, 0.7),
    (_Maker._log_outputs, 0.3),
    (_Maker._log_model, 0.4),
]
