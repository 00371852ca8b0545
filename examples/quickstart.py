"""Train a regression on a data set that ships with scikit-learn and keep everything about it in MLflow.

    python examples/quickstart.py

Logs parameters, metrics for every boosting step, a plot and the model; registers the model; then loads the new version
back from the registry, as a consumer would. Needs ``mlflow``, ``mlflow-aws-iam``, ``scikit-learn`` and ``matplotlib``,
and the role DataScientist on the tracking server.

The server is the one that MLFLOW_TRACKING_URI names. When that is not set, it is the one that ``make up`` runs on this
machine, as its data scientist.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import matplotlib
import mlflow
import numpy as np
from matplotlib.figure import Figure
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split

EXPERIMENT = "quickstart"
MODEL = "diabetes-progression"
PARAMS = {"n_estimators": 200, "learning_rate": 0.05, "max_depth": 3, "subsample": 0.8, "random_state": 7}

LOCAL_SERVERS = Path(__file__).resolve().parent.parent / ".local"

matplotlib.use("Agg")


def find_server() -> None:
    """Take the variables of the server that `make up` runs here, unless the environment names a server."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return
    found = sorted(LOCAL_SERVERS.glob("*/roles/data-scientist.env"), key=lambda file: file.stat().st_mtime)
    if not found:
        sys.exit(
            "Start a server with `make up`, or set MLFLOW_TRACKING_URI to the TrackingUri that `kit outputs` prints "
            "and MLFLOW_TRACKING_AUTH=aws-iam."
        )
    for line in found[-1].read_text().splitlines():
        match shlex.split(line, comments=True):
            case ["unset", *names]:
                for name in names:
                    os.environ.pop(name, None)
            case ["export", assignment]:
                name, _, value = assignment.partition("=")
                os.environ[name] = value


def learning_curve(train_rmse: list[float], test_rmse: list[float]) -> Figure:
    """RMSE against boosting step, for the training and the held-out rows."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(train_rmse, label="train")
    axes.plot(test_rmse, label="test")
    axes.set(xlabel="boosting step", ylabel="RMSE", title="Diabetes progression: learning curve")
    axes.legend()
    return figure


def step_metrics(name: str, values: list[float], started_ms: int) -> list[Metric]:
    return [Metric(name, value, started_ms + step, step) for step, value in enumerate(values)]


def main() -> None:
    find_server()
    features, target = load_diabetes(return_X_y=True, as_frame=True)
    x_train, x_test, y_train, y_test = train_test_split(features, target, random_state=7)

    mlflow.set_experiment(EXPERIMENT)
    with mlflow.start_run() as run:
        print(f"Run {run.info.run_name} in experiment {EXPERIMENT!r} on {mlflow.get_tracking_uri()}")
        mlflow.log_params(PARAMS)
        model = GradientBoostingRegressor(**PARAMS).fit(x_train, y_train)

        train_rmse = [root_mean_squared_error(y_train, p) for p in model.staged_predict(x_train)]
        test_rmse = [root_mean_squared_error(y_test, p) for p in model.staged_predict(x_test)]
        started = run.info.start_time
        client = mlflow.MlflowClient()
        client.log_batch(
            run.info.run_id,
            metrics=step_metrics("train_rmse", train_rmse, started)
            + step_metrics("test_rmse", test_rmse, started),
        )
        prediction = model.predict(x_test)
        mlflow.log_metrics(
            {"mae": mean_absolute_error(y_test, prediction), "r2": r2_score(y_test, prediction)}
        )
        mlflow.log_figure(learning_curve(train_rmse, test_rmse), "learning_curve.png")

        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(x_test, prediction),
            input_example=x_test.head(3),
            registered_model_name=MODEL,
            # The types in a model file are checked when it is loaded; trees need one beyond the defaults.
            skops_trusted_types=["sklearn.tree._tree.Tree"],
        )

    # Whoever approves models, the role ModelApprover, now points an alias at the version that is to be used:
    #   client.set_registered_model_alias(MODEL, "champion", version)
    # and consumers load models:/<name>@champion. A data scientist names the version.
    version = logged.registered_model_version
    loaded = mlflow.pyfunc.load_model(f"models:/{MODEL}/{version}")
    if not np.allclose(loaded.predict(x_test), prediction):
        raise MlflowException("the model that came back from the registry predicts something else")
    print(f"Registered {MODEL} version {version}: r2 {r2_score(y_test, prediction):.3f}")


if __name__ == "__main__":
    main()
