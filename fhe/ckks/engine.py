"""The backend in a worker: see `fhe.backend.Engine`. A bundle adds a layout, which the client has too, and a plan, which it has
not.

The secret is SEAL's secret key. An evaluation key is SEAL's relinearisation keys, and after them its Galois keys for the
layout's turns; neither holds anything of the secret but what is meant to be public. A payload is one SEAL ciphertext.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from fhe.backend import Values
from fhe.bundle import Bundle
from fhe.ckks.evaluate import Evaluation, Keys
from fhe.ckks.plan import Layout, Plan
from fhe.ckks.seal import Scheme, dump, stream_length
from fhe.errors import BundleError, InputError, Refused, Why

LAYOUT, PLAN = "layout.json", "plan.npz"

_ROUNDING = 1e-9
"""What an end of a range may come out beyond 1, by the rounding of doubles."""


class CkksEngine:
    """See `fhe.backend.Engine`. Without a plan it is a client's."""

    def __init__(self, layout: Layout, plan: Plan | None, shape: tuple[int, ...]) -> None:
        """`shape`: of one sample's result. Raises BundleError for a plan that is not the layout's."""
        if plan is not None and not (
            plan.levels == layout.parameters.levels and set(plan.turns) <= {*layout.turns, layout.parameters.slots}
        ):
            raise BundleError("the plan and the layout are not of one model; make the bundle again")
        if int(np.prod(shape)) != len(layout.results):
            raise BundleError("the layout has not as many results as the model; make the bundle again")
        self._layout = layout
        self._plan = plan
        self._shape = shape
        self._scheme = Scheme(layout.parameters)
        self._evaluation: Evaluation | None = None

    def keygen(self, key: Path) -> bytes:
        """See `Engine.keygen`."""
        keys = self._scheme.draw()
        key.write_bytes(dump(self._scheme.relin(keys)) + dump(self._scheme.galois(keys, self._layout.turns)))
        return dump(keys.secret_key())

    def encrypt(self, secret: bytes, values: Values) -> list[bytes]:
        """See `Engine.encrypt`."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        if flat.shape[1] != self._layout.size or not np.all(np.abs(flat) <= 1 + _ROUNDING):
            raise InputError(f"a sample is {self._layout.size} numbers from -1 to 1")
        key, scale = self._scheme.load("SecretKey", secret), self._layout.parameters.scale
        rows = self._layout.spread(flat)
        return [dump(self._scheme.encrypt(key, self._scheme.plaintext(row.tolist(), 0, scale))) for row in rows]

    def decrypt(self, secret: bytes, payloads: list[bytes]) -> Values:
        """See `Engine.decrypt`. What SEAL gives out holds the noise, which tells of the secret key (Li and Micciancio 2021): it
        is rounded before it leaves this function."""
        key = self._scheme.load("SecretKey", secret)
        slots = np.array(
            [self._scheme.decrypt(key, self._ciphertext(payload, self._layout.parameters.levels)) for payload in payloads]
        )
        return self._layout.collect(slots).reshape(len(payloads), *self._shape)

    def expand(self, key: Path) -> object:
        """See `Engine.expand`."""
        data = key.read_bytes()
        cut = stream_length(data) or 0
        if not 0 < cut < len(data):
            raise Refused(Why.DAMAGED, "the evaluation key is not of the length that it says; make it and send it again")
        keys = Keys(relin=self._scheme.load("RelinKeys", data[:cut]), galois=self._scheme.load("GaloisKeys", data[cut:]))
        if not self._scheme.turns_by(keys.galois, self._layout.turns):
            raise Refused(Why.DAMAGED, "the evaluation key lacks a part that this model needs; make it and send it again")
        return keys

    def infer(self, expanded: object, payload: bytes) -> bytes:
        """See `Engine.infer`."""
        if self._plan is None:
            raise BundleError("this is a client's bundle, and computing takes the service's")
        assert isinstance(expanded, Keys), "a key of another backend never gets here"
        if self._evaluation is None:
            self._evaluation = Evaluation(self._scheme, self._plan)
        return dump(self._evaluation.run(self._ciphertext(payload, 0), expanded))

    def _ciphertext(self, payload: bytes, level: int) -> object:
        """Raises Refused for a ciphertext that is not what stands at `level`."""
        found = self._scheme.load("Ciphertext", payload)
        scale = self._layout.parameters.last_scale if level else self._layout.parameters.scale
        if found.size() != 2 or found.parms_id() != self._scheme.chain[level] or found.scale != scale:
            raise Refused(Why.DAMAGED, "the ciphertext is none of this model; make it and send it again")
        return found


def open_engine(bundle: Bundle, cache: Path) -> CkksEngine:
    """See `fhe.backend.open_engine`."""
    plan = Plan.load(bundle.part(PLAN)) if bundle.has(PLAN) else None
    return CkksEngine(read_layout(bundle.part(LAYOUT)), plan, bundle.model.output.shape)


def read_layout(data: bytes) -> Layout:
    """Raises BundleError for bytes that are no layout."""
    try:
        layout = msgspec.json.decode(data, type=Layout)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"{LAYOUT} does not say what it must: {error}") from error
    layout.check()
    return layout
