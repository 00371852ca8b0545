"""What random operations are made of: values at the edges of MLflow's limits, of JSON, of MySQL and of floats."""

from __future__ import annotations

from typing import Any

_COMBINED = "e\u0301"
"""é as a letter and a combining accent."""

KEYS = (
    *(
        "a",
        "loss",
        "val/loss",
        "a.b",
        "a b",
        "a-b",
        "a:b",
        "_",
        "0",
        "B",
        "acc",
        "lr",
        "x_1",
        "日本",
        "é",
        "ß",
    ),
    *(
        "k" * 250,
        "日" * 250,
        "mlflow.user",
        "mlflow.source.name",
        "mlflow.parentRunId",
        "mlflow.note.content",
    ),
)
"""Names that MLflow takes, different ones to MySQL too."""

ALIKE_KEYS = (
    *(
        "A",
        "ä",
        "Ä",
        "\uff41",
        "a ",
        " a",
        "Loss",
        "LOSS",
        "e",
        "E",
        "ss",
        "SS",
        "b",
        "ACC",
        "\uff2cr",
        "İ",
        "i",
        "\u0131",
    ),
)
"""Names that are the same as another to MySQL, whose order of text regards neither case nor accents, or nearly."""

BAD_KEYS = (
    *(_COMBINED, "a\t", "a\u0000", "a\n", "😀", "a😀", "a`b", "a'b", 'a"b', "a%", "\\", "a\u200db"),
    *("a/", "/a", "a//b", "../a", "./a", "a/..", ".", "..", "/", "", "k" * 251, "ä" * 251),
    *("mlflow.loggedArtifacts", "mlflow.log-model.history"),
)
"""Names that MLflow refuses, or that it gives a meaning to."""

TEXTS = (
    *(
        "",
        "a",
        "A",
        "a ",
        " ",
        "ä",
        "a\u0308",
        "😀",
        "👩\u200d👩\u200d👧",
        "日本語",
        "\u0000",
        "a\u0000b",
        "\n\r\t",
        "\u2028",
    ),
    *("'", '"', "`", "\\", "%", "{}", "null", "NaN", "1.0", "\u007f", "\ufeff", "\uffff", "<run 0>"),
    *("x" * 250, "x" * 251, "ä" * 250, "😀" * 250),
)

LONG_TEXTS = (
    *("x" * 500, "x" * 501, "x" * 5000, "x" * 5001, "x" * 6000, "x" * 6001, "x" * 8000, "x" * 8001),
    *("ä" * 6000, "😀" * 6000, "😀" * 8000, "x" * 20_001),
)

METRIC_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 0.1, 0.5, 1.0, 2.5, 1 / 3, -0.0, 1e-7, 1e15, 1e16, 1e17, 1e22, 1e23, 123456789.123, 3.14),
    *(5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 0.1 + 0.2),
    *(2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, "NaN", "Infinity", "-Infinity"),
    *(
        "«raw NaN»",
        "«raw Infinity»",
        "«raw -Infinity»",
        "«raw 1e400»",
        "«raw -1e400»",
        "«raw 1E5»",
        "«raw -0»",
    ),
    *("«raw 1.0000000000000001»", "«raw 1e-400»", "1.5", "1e5"),
)

TIMES: tuple[Any, ...] = (0, 1, 2, 1_600_000_000_000, 2**31, 2**53 + 1, 2**63 - 1)

STEPS: tuple[Any, ...] = (0, -1, 5, 10, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))

WRONG: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        1.0,
        1.5,
        "",
        "1",
        "1.0",
        "-1",
        "x",
        "nan",
        "inf",
        " 1",
        [],
        {},
        [1],
        {"a": 1},
    ),
    *(2**63, -(2**63) - 1, 1e400, "9223372036854775808", "«raw 1e0»", "«raw 10e-1»", ["a"], [None], [{}]),
)
"""Values that a field is not for, or only in another spelling."""

FILTERS = (
    *("metrics.`{key}` > 0", "metrics.`{key}` <= 1", "metrics.`{key}` = 0", "metrics.`{key}` != 0.5"),
    *(
        "metric.loss > -1e300",
        "metrics.loss < 1e309",
        "params.`{key}` = '{text}'",
        "params.`{key}` != '{text}'",
    ),
    *("param.a LIKE '%{text}%'", "params.`{key}` ILIKE 'A%'", "tags.`{key}` = '{text}'", "tag.a != '{text}'"),
    *("tags.`{key}` ILIKE '%{text}%'", "tags.a IS NULL", "tags.`{key}` IS NOT NULL", "params.a IS NULL"),
    *("attributes.status = 'RUNNING'", "status != 'FINISHED'", "attribute.start_time > 1", "end_time >= 0"),
    *("attributes.run_id = '«run 0»'", "run_id IN ('«run 0»', '«run 1»')", "run_id NOT IN ('«run 1»')"),
    *(
        "run_name = 'run 1'",
        "attributes.run_name LIKE 'run%'",
        "run_name ILIKE 'RUN 2'",
        "user_id = '{text}'",
    ),
    *("attributes.artifact_uri LIKE 'mlflow%'", "dataset.name = 'data'", "datasets.digest LIKE 'd%'"),
    *(
        "dataset.context = '{text}'",
        "metrics.a > 'x'",
        "params.a > 1",
        "x = 1",
        "metrics.a",
        "attributes.foo = 'x'",
    ),
    *("metrics.`a > 1", "tags.a = 'it''s'", "params.a = 1", "a OR b", "run_name IN ('run 1', 'run 2')"),
)

ORDERS = (
    *("metrics.`{key}`", "metrics.`{key}` DESC", "metrics.loss ASC", "metric.a desc", "params.`{key}`"),
    *("params.a DESC", "tags.`{key}`", "tag.a DESC", "attributes.start_time", "start_time DESC"),
    "attributes.start_time DESC",
    *(
        "attributes.end_time DESC",
        "attributes.status",
        "status DESC",
        "attributes.run_name",
        "`Run name` DESC",
    ),
    *("attributes.run_id DESC", "user_id", "attributes.artifact_uri DESC", "Created", "metrics.a ASCENDING"),
    *("", "x", "metrics.", "attributes.foo", "dataset.name", "metrics.a, metrics.b", "metrics.loss  DESC "),
)

EXPERIMENT_ORDERS = (
    *(
        "name",
        "name DESC",
        "experiment_id",
        "experiment_id DESC",
        "creation_time",
        "last_update_time DESC",
        "foo",
    ),
)
