"""A secure sum as a Flower app: SecAgg+ over vectors made from a seed; `peers.py` runs it, deployed or simulated.

SecAgg+ adds fixed-point numbers and returns a weighted mean. Equal weights and a clipping range that is a power of
two make the quantisation step exactly 1, so that the mean times the number of patients is the exact sum, and it is
checked to be. Every patient shares a mask with every other (`num_shares=1.0`), which is what stands up to as many
colluding patients as our protocol does. No model is sent to the patients. The time of a round is that of the SecAgg+
workflow alone, with all nodes connected.

The app's configuration: patients, length, largest (the largest value of a patient), seed, rounds, and `results`, the
file that gets one JSON object a round.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy
import numpy.typing
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters, parameters_to_arrayrecord
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_PARAMS_RECORD

from benchmarks import values


class Patient(NumPyClient):  # type: ignore[misc]  # flwr is not installed where types are checked
    """Answers the one question of SecAgg+ with its vector, at weight 1."""

    def __init__(self, vector: numpy.typing.NDArray[numpy.float64]) -> None:
        self._vector = vector

    def fit(self, parameters: object, config: object) -> tuple[list[numpy.typing.NDArray[numpy.float64]], int, dict[str, float]]:
        return [self._vector], 1, {}


def make_patient(context: Context) -> object:
    run = context.run_config
    seed = values.patient_seed(run["seed"], int(context.node_config["partition-id"]))
    return Patient(values.vector(seed, run["length"], run["largest"]).astype(float)).to_client()


def run_rounds(grid: Grid, context: Context) -> None:
    run = context.run_config
    patients, largest = run["patients"], run["largest"]
    plain = values.plain_sum(run["seed"], patients, run["length"], largest)
    clip = 1 << largest.bit_length()
    nothing = ndarrays_to_parameters([])
    secure = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=0.67,
        max_weight=1.0,
        clipping_range=float(clip),
        quantization_range=2 * clip,
        modulus_range=1 << 32,
    )

    def timed(grid: Grid, context: LegacyContext) -> None:
        began = time.perf_counter()
        secure(grid, context)
        seconds = time.perf_counter() - began
        mean = parameters_to_ndarrays(arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], True))
        correct = len(mean) == 1 and numpy.array_equal(numpy.rint(mean[0] * patients).astype(numpy.int64), plain)
        context.state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(nothing, True)
        with Path(run["results"]).open("a", encoding="utf-8") as results:
            results.write(json.dumps({"seconds": seconds, "correct": bool(correct)}) + "\n")

    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=patients,
        min_available_clients=patients,
        initial_parameters=nothing,
    )
    DefaultWorkflow(fit_workflow=timed)(
        grid, LegacyContext(context, config=ServerConfig(num_rounds=run["rounds"]), strategy=strategy)
    )


client = ClientApp(client_fn=make_patient, mods=[secaggplus_mod])
server = ServerApp()
server.main()(run_rounds)
