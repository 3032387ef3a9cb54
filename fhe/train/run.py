"""Carry out one job, in the training environment: train, compile, try it encrypted, and leave the parts of a bundle.

Every number that a client gets is written here, in our own JSON; of what Concrete ML would save, nothing is used. A model whose
encrypted results are not those of its quantised form, on every sample tried, is not let out.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from fhe.bundle import QUANTISER, Audience, Description, Input, Metric, Output
from fhe.concrete.build import SECURITY, build
from fhe.concrete.options import PACKAGE
from fhe.errors import FheError, InputError
from fhe.quantiser import Real, Whole, to_predictions, to_units, to_values
from fhe.train.job import DESCRIPTION, JOB, SAMPLES, Draft, Job, Samples
from fhe.train.numbers import quantiser_of
from fhe.train.recipes import train
from fhe.train.table import declare, read_table

TRIED = 3
"""Samples that are encrypted, computed and decrypted."""

Array = NDArray[Any]


def main() -> NoReturn:
    """Do the job in the directory that is the last argument. Exit status 78 for what a person can mend, told on stderr."""
    directory = Path(sys.argv[-1])
    try:
        job = msgspec.json.decode((directory / JOB).read_bytes(), type=Job)
        draft = make(job, directory)
    except FheError as error:
        print(error, file=sys.stderr)
        sys.exit(78)
    (directory / DESCRIPTION).write_bytes(msgspec.json.encode(draft))
    sys.exit(0)


def make(job: Job, directory: Path) -> Draft:
    """Trains, and writes the parts and, if they are asked for, the samples. Raises FheError."""
    from sklearn.model_selection import train_test_split

    table = read_table(job)
    form = Input(shape=(len(table.names),), features=declare(table, job))
    rows, held, target, labels = train_test_split(
        table.rows,
        table.target,
        test_size=job.held_out,
        random_state=job.seed,
        stratify=table.target if table.classes else None,
    )
    units = to_units(form, "unit", rows)
    trained = train(job, units, target, len(table.classes))
    quantiser = quantiser_of(trained.input_quantiser, trained.output_quantiser, "unit")
    if not np.array_equal(to_values(form, quantiser, rows), trained.quantise(units)):
        raise InputError("clients would quantise otherwise than this model was trained; the recipe does not fit the data")
    values = np.asarray(to_values(form, quantiser, held), dtype=np.int64)
    results = np.asarray(trained.infer(values), dtype=np.int64)
    built = build(trained.mlir, values[:TRIED], results[:TRIED])
    description = Description(
        id=job.id,
        title=job.title,
        kind=job.recipe,
        backend="concrete",
        created=job.created,
        input=form,
        output=Output(shape=results.shape[1:], labels=table.classes, link=trained.link),
        security=SECURITY,
        sizes=built.sizes,
        seconds=built.seconds,
        versions={PACKAGE: metadata.version(PACKAGE), "concrete-ml": metadata.version("concrete-ml")},
        linear=trained.linear,
    )
    scores = trained.clear(to_units(form, "unit", held))
    description = msgspec.structs.replace(
        description, metrics=(_metric(description, labels, Real(), scores, quantiser, results),)
    )
    for name, (_, data) in built.parts.items():
        (directory / name).write_bytes(data)
    (directory / QUANTISER).write_bytes(msgspec.json.encode(quantiser))
    if job.samples:
        some = slice(job.samples)
        samples = Samples(
            inputs=held[some].tolist(),
            labels=[float(one) for one in labels[some]],
            results=results[some].tolist(),
            clear=scores[some].tolist(),
        )
        (directory / SAMPLES).write_bytes(msgspec.json.encode(samples))
    return Draft(
        model=description,
        audience={name: audience for name, (audience, _) in built.parts.items()} | {QUANTISER: Audience.CLIENT},
    )


def _metric(model: Description, labels: Array, plain: Real, scores: Array, quantiser: Whole, results: Array) -> Metric:
    both = [to_predictions(model, plain, scores), to_predictions(model, quantiser, results)]
    if model.output.labels:
        name, figures = "accuracy", [float((one.argmax(axis=1) == labels).mean()) for one in both]
    else:
        spread = float(((labels - labels.mean()) ** 2).sum())
        name, figures = "r2", [1 - float(((one.ravel() - labels) ** 2).sum()) / spread for one in both]
    return Metric(name=name, clear=round(figures[0], 4), quantised=round(figures[1], 4), samples=len(labels))
