"""Train a regression on a data set that ships with scikit-learn and keep everything about it in MLflow.

    MLFLOW_TRACKING_URI=http://localhost:5000 python examples/quickstart.py

Logs parameters, metrics for every boosting step, a plot and the model; registers the model and points the
alias ``champion`` at the new version; then loads it back through that alias, as a consumer would. Needs
``mlflow``, ``scikit-learn`` and ``matplotlib``, and no AWS permission beyond what the tracking server asks for.
"""

from __future__ import annotations

import os
import sys

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

matplotlib.use("Agg")


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
    if "MLFLOW_TRACKING_URI" not in os.environ:
        sys.exit("Set MLFLOW_TRACKING_URI to the TrackingUri that `make up` or `kit outputs` prints.")
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
    client.set_registered_model_alias(MODEL, "champion", logged.registered_model_version)

    champion = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    if not np.allclose(champion.predict(x_test), prediction):
        raise MlflowException("the model that came back from the registry predicts something else")
    score = r2_score(y_test, prediction)
    print(f"Registered {MODEL} version {logged.registered_model_version} as @champion: r2 {score:.3f}")


if __name__ == "__main__":
    main()
