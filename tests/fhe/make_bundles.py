"""Make the small bundles that tests run, anew: `make fhe-bundles`. They are committed, so that tests need no training.

Trained on scikit-learn's own data sets, which are public, and signed by a key that is thrown away: tests know its fingerprint
from `data/signer.txt`. Beside each lie held-out rows with the results of Concrete ML's quantised model in clear (`NAME.json`),
which must come out of the encryption.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric import ec

from fhe.bundle import make_bundle
from fhe.environment import Environment
from fhe.maker import run_maker
from fhe.signature import make_signer
from fhe.train.job import MODULE, SAMPLES, Job

DATA = Path(__file__).parent / "data"
SHOWN = 30
"""Held-out rows beside each bundle."""


def jobs(created: str) -> list[Job]:
    return [
        Job(
            id="logistic",
            title="Benign or malignant, by logistic regression",
            recipe="logistic-regression",
            data="breast-cancer",
            created=created,
            samples=SHOWN,
        ),
        Job(
            id="xgboost",
            title="Benign or malignant, by ten boosted trees",
            recipe="xgboost",
            data="breast-cancer",
            created=created,
            samples=SHOWN,
        ),
        Job(
            id="stumps",
            title="Benign or malignant, by two stumps",
            recipe="xgboost",
            data="breast-cancer",
            created=created,
            bits=2,
            trees=2,
            depth=1,
            samples=SHOWN,
        ),
        Job(
            id="iris",
            title="Kinds of iris, by a small network",
            recipe="mlp",
            data="iris",
            created=created,
            samples=SHOWN,
        ),
        Job(
            id="diabetes",
            title="Progression of diabetes, by linear regression",
            recipe="linear-regression",
            data="diabetes",
            created=created,
            samples=SHOWN,
        ),
    ]


def main() -> None:
    environment = Environment.find_training()
    signer = make_signer(ec.generate_private_key(ec.SECP256R1()))
    for job in jobs(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")):
        with TemporaryDirectory() as scratch:
            description, parts = run_maker(environment, MODULE, job, Path(scratch))
            samples = (Path(scratch) / SAMPLES).read_bytes()
        data = make_bundle(description, parts, signer)
        (DATA / f"{job.id}.bundle").write_bytes(data)
        (DATA / f"{job.id}.json").write_bytes(samples + b"\n")
        print(f"{job.id}: {len(data)} bytes, {description.metrics[0]}, {description.seconds}, key {description.sizes.key} bytes")
    (DATA / "signer.txt").write_text(signer(b"").fingerprint + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
