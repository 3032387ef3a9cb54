"""A model as one signed file: what a client needs to ask it, and what a service needs to run it.

    NAME.bundle       a zip file (stored or deflated), in which only what the manifest names is read
      manifest.json   what the model is, and name, size, SHA-256 and audience of every part
      signature.json  the owner's ECDSA signature over the manifest, see `fhe.signature`
      PARTS           quantiser.json, options.json, and what the backend adds: a circuit, a graph, parameters

The model's hash is the SHA-256 of `manifest.json` as it stands in the file, so that it covers every part. A client gets the same
file without the parts that are the service's alone: its hash and signature are the same, and it learns no weights. Nothing in a
bundle is unpickled or executed by reading it; sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from fhe.errors import BundleError, InputError
from fhe.signature import Signature, Signer, verify

FORMAT: Literal[1] = 1
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
QUANTISER = "quantiser.json"
"""The part that every bundle has: how features become what is encrypted, see `fhe.quantiser`."""
PROBE = "probe.bin"
"""The service's part that every backend brings: a ciphertext under a key that was thrown away, to try new evaluation keys on."""

MAX_MANIFEST = 4 * 1024 * 1024
MAX_PART = 256 * 1024 * 1024
MAX_BUNDLE = 512 * 1024 * 1024
MAX_NUMBERS = 1_000_000
MIN_SECURITY = 128
"""Bits: what every backend's parameters are chosen for, at least."""
MAX_P_ERROR_LOG2 = -40
_HUGE = 1e300
_MAX_SIGNATURE = 256 * 1024
_MAX_PARTS = 64
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's own; a bundle made twice from the same is the same

MODEL_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_PART = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}(?:\.[a-z0-9]{1,8}){1,3}", re.ASCII)
# What the zip reader raises for bytes that are no zip file, or one of a kind that is not read here.
_UNREADABLE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError)

T = TypeVar("T")

Trust = Callable[[Signature], None]
"""Raises SignerError unless whoever made the signature may offer models here."""


class Audience(StrEnum):
    """Who gets a part."""

    CLIENT = "client"
    """Everybody who may ask the model, and the service."""
    SERVER = "server"
    """The service alone: weights, circuits."""


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what is written as JSON. Unknown fields are refused: a newer bundle says so instead of being half understood."""


class Feature(Struct, frozen=True, kw_only=True):
    """One number that goes into the model."""

    name: str
    unit: str = ""
    """As people write it; "" for a number without one."""
    low: float
    high: float
    """The declared range, rounded outwards: no bundle tells the smallest and largest value of its training data."""


class Input(Struct, frozen=True, kw_only=True):
    """What goes in: an array of `shape`, row-major."""

    shape: tuple[int, ...]
    """Of one sample, without the axis of samples."""
    features: tuple[Feature, ...]
    """One for each number, or one for all alike, as the pixels of an image."""

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    def feature(self, position: int) -> Feature:
        """That of the number at `position`, counted row-major from 0."""
        return self.features[position if len(self.features) > 1 else 0]


class Output(Struct, frozen=True, kw_only=True):
    """What comes out: an array of `shape`, after `link`."""

    shape: tuple[int, ...]
    """Of one sample's result, without the axis of samples."""
    labels: tuple[str, ...] = ()
    """Of a classifier: what the results are scores of, in order. Two labels with one result: the second's."""
    link: Literal["identity", "sigmoid", "softmax"] = "identity"
    """What the client applies after decryption, as no such function is computed under encryption here."""
    unit: str = ""
    """Of a regression."""


class Metric(Struct, frozen=True, kw_only=True):
    """One figure of the model's quality, in clear and as it is computed under encryption."""

    name: str
    clear: float
    quantised: float
    """Of the model as it is encrypted: quantised or simulated."""
    samples: int
    """That it was measured on; none of them was trained with."""


class Span(Struct, frozen=True, kw_only=True):
    """Sizes in bytes, least and most. Both are the same where the library's encoding has one length."""

    least: int
    most: int


class Sizes(Struct, frozen=True, kw_only=True):
    """Of what travels: payloads, without our headers."""

    key: int
    """The evaluation key, at most."""
    input: Span
    """One sample's ciphertext."""
    output: Span
    """One result's ciphertext."""


class Seconds(Struct, frozen=True, kw_only=True):
    """What the work took where the bundle was made, on one core: for estimates."""

    keygen: float
    encrypt: float
    infer: float
    decrypt: float


class Security(Struct, frozen=True, kw_only=True):
    """What the parameters were chosen for."""

    bits: int
    """At least 128."""
    p_error_log2: int | None = None
    """The chance that one table look-up errs is at most two to this; None where the scheme has no such look-up."""


class Part(Struct, frozen=True, kw_only=True):
    """One file of the bundle."""

    size: int
    sha256: str
    audience: Audience


class Description(Struct, frozen=True, kw_only=True):
    """All of a manifest but its parts: what whoever makes a bundle has to say."""

    id: str
    """Lower-case letters, digits and dashes: what a service calls the model."""
    title: str
    kind: str
    """As "logistic-regression": for people."""
    backend: Literal["concrete", "ckks"]
    created: str
    """RFC 3339, UTC."""
    input: Input
    output: Output
    security: Security
    sizes: Sizes
    seconds: Seconds
    versions: dict[str, str]
    """The libraries that the parts were made with: package to exact version."""
    linear: bool
    """Whether the model of a mean is the mean of the model, up to `link`."""
    metrics: tuple[Metric, ...] = ()
    notes: str = ""


class Manifest(Struct, frozen=True, kw_only=True):
    """What `manifest.json` says."""

    format: Literal[1]
    model: Description
    parts: dict[str, Part]

    @property
    def backend(self) -> str:
        """The backend's folder."""
        return self.model.backend


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle. Its parts are read from `source` when they are asked for, and checked then."""

    manifest: Manifest
    hash: str
    """SHA-256 of the manifest in lower-case hex: the model's name to keys and ciphertexts."""
    signature: Signature
    source: Path | bytes

    @property
    def model(self) -> Description:
        """What the manifest says of the model."""
        return self.manifest.model

    @classmethod
    def open(cls, source: Path | bytes, trust: Trust) -> Bundle:
        """The bundle in a file or in memory, whole or the client's.

        Raises BundleError for anything that is not a bundle, SignerError when the signature does not hold or `trust` refuses it.
        """
        bundle, raw = cls._read(source)
        verify(bundle.signature, raw)
        trust(bundle.signature)
        return bundle

    @classmethod
    def open_known(cls, source: Path | bytes, model: str) -> Bundle:
        """The bundle with the hash `model`, whose signature somebody has verified before: the hash makes it the same.

        Raises BundleError for anything else.
        """
        bundle, _ = cls._read(source)
        if bundle.hash != model:
            raise BundleError(f"the bundle is now {bundle.hash[:12]} and was {model[:12]} before; ask for the new one")
        return bundle

    @classmethod
    def _read(cls, source: Path | bytes) -> tuple[Bundle, bytes]:
        with _zip(source) as archive:
            raw = _member(archive, MANIFEST, MAX_MANIFEST)
            signature = _decode(_member(archive, SIGNATURE, _MAX_SIGNATURE), Signature, SIGNATURE)
            manifest = _manifest(raw)
            _check_members(archive, manifest)
        return cls(manifest, hashlib.sha256(raw).hexdigest(), signature, source), raw

    def has(self, name: str) -> bool:
        """Whether the part is in this file. A client's bundle lacks the service's parts."""
        if name not in self.manifest.parts:
            return False
        with _zip(self.source) as archive:
            return name in archive.namelist()

    def part(self, name: str) -> bytes:
        """The bytes of a part. Raises BundleError when it is not there or not what the manifest says."""
        part = self.manifest.parts.get(name)
        if part is None:
            raise BundleError(f"the bundle of {self.model.id} has no part {name!r}")
        with _zip(self.source) as archive:
            if name not in archive.namelist():
                raise BundleError(f"the part {name!r} of {self.model.id} is the service's; this is a client's bundle")
            data = _member(archive, name, part.size)
        if len(data) != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
            raise BundleError(f"the part {name!r} of {self.model.id} is not what its manifest says; fetch the bundle again")
        return data

    def client(self) -> bytes:
        """This bundle without what is the service's alone. Raises BundleError."""
        with _zip(self.source) as archive:
            files = {name: _member(archive, name, MAX_MANIFEST) for name in (MANIFEST, SIGNATURE)}
        parts = self.manifest.parts.items()
        return _pack(files | {name: self.part(name) for name, part in parts if part.audience is Audience.CLIENT})

    def signed_again(self, signer: Signer) -> bytes:
        """The same model, with the same hash, under another signature. Raises BundleError."""
        with _zip(self.source) as archive:
            raw = _member(archive, MANIFEST, MAX_MANIFEST)
            names = [name for name in self.manifest.parts if name in archive.namelist()]
        return _pack(_head(raw, signer) | {name: self.part(name) for name in names})


def make_bundle(description: Description, parts: Mapping[str, tuple[Audience, bytes]], signer: Signer) -> bytes:
    """The file of a new bundle. Raises InputError for a description or a part that breaks a rule of the format."""
    listed = {
        name: Part(size=len(data), sha256=hashlib.sha256(data).hexdigest(), audience=audience)
        for name, (audience, data) in sorted(parts.items())
    }
    raw = msgspec.json.format(msgspec.json.encode(Manifest(format=FORMAT, model=description, parts=listed)), indent=1)
    try:
        _manifest(raw)
    except BundleError as error:
        raise InputError(f"no bundle can be made of this: {error}") from error
    return _pack(_head(raw, signer) | {name: data for name, (_, data) in sorted(parts.items())})


def _head(raw: bytes, signer: Signer) -> dict[str, bytes]:
    return {MANIFEST: raw, SIGNATURE: msgspec.json.encode(signer(raw))}


def _pack(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return out.getvalue()


def _zip(source: Path | bytes) -> zipfile.ZipFile:
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > MAX_BUNDLE:
            raise BundleError(f"this file is larger than a bundle may be, {MAX_BUNDLE} bytes; check the path")
        return zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except OSError as error:
        raise InputError(f"cannot read the bundle {source!s}: {error.strerror}") from error
    except _UNREADABLE as error:
        raise BundleError("this is no bundle: it is not a zip file, or a damaged one; fetch it again") from error


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """The bytes of one member: the zip directory promises at most `limit` of them, and no more than promised are unpacked."""
    try:
        entry = archive.getinfo(name)
        if entry.file_size > limit:
            raise BundleError(f"{name} in the bundle is larger than it may be ({limit} bytes)")
        with archive.open(entry) as file:
            return file.read(limit + 1)
    except KeyError:
        raise BundleError(f"this is no bundle: it has no {name}") from None
    except OSError as error:
        raise InputError(f"cannot read the bundle: {error.strerror}") from error
    except _UNREADABLE as error:
        raise BundleError(f"{name} in the bundle cannot be unpacked; fetch the bundle again") from error


def _manifest(raw: bytes) -> Manifest:
    try:
        found = msgspec.json.decode(raw, type=_Format).format
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not a manifest: {error}") from error
    if found != FORMAT:
        raise BundleError(f"this bundle has format {found}, and {FORMAT} is read here; use a version of the program that fits")
    manifest = _decode(raw, Manifest, MANIFEST)
    _check(manifest)
    return manifest


class _Format(msgspec.Struct):
    format: int


def _decode(raw: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BundleError(f"{name} does not say what it must: {error}") from error


def _check_members(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    names = archive.namelist()
    if len(set(names)) != len(names) or not set(names) <= {MANIFEST, SIGNATURE, *manifest.parts}:
        raise BundleError("the bundle has files that its manifest does not name, or has one twice; fetch it again")
    for name, part in manifest.parts.items():
        if part.audience is Audience.CLIENT and name not in names:
            raise BundleError(f"the bundle lacks the part {name!r}; fetch it again")


def _check(manifest: Manifest) -> None:
    """Raises BundleError for a manifest whose numbers make no sense."""
    for holds, rule in _rules(manifest):
        if not holds:
            raise BundleError(f"{MANIFEST}: {rule}")


def _rules(manifest: Manifest) -> Iterator[tuple[bool, str]]:
    model, parts = manifest.model, manifest.parts
    features, sizes = model.input.features, model.sizes
    yield MODEL_ID.fullmatch(model.id) is not None, "an id has lower-case letters, digits and dashes, at most 63"
    yield all(map(_is_shape, (model.input.shape, model.output.shape))), "a shape has 1 to 8 axes, each of at least one"
    yield model.input.size <= MAX_NUMBERS, f"a model takes at most {MAX_NUMBERS} numbers"
    yield len(features) in {1, model.input.size}, "features: one for each number of the input, or one for all"
    yield len({feature.name for feature in features}) == len(features), "features: each name once"
    # Written so that a number that is none is refused, too.
    yield all(-_HUGE < feature.low < feature.high < _HUGE for feature in features), "features: low is below high"
    results = math.prod(model.output.shape)
    yield len(model.output.labels) in ({0, 2} if results == 1 else {0, results}), "labels: one for each result"
    yield model.security.bits >= MIN_SECURITY, f"security: fewer than {MIN_SECURITY} bits"
    errors = model.security.p_error_log2
    yield errors is None or errors <= MAX_P_ERROR_LOG2, f"security: errors above 2^{MAX_P_ERROR_LOG2}"
    spans = (sizes.input, sizes.output)
    yield all(0 < span.least <= span.most <= MAX_PART for span in spans) and sizes.key > 0, "sizes: they are positive"
    yield len(parts) <= _MAX_PARTS and QUANTISER in parts, f"parts: at most {_MAX_PARTS}, and {QUANTISER} among them"
    for name, part in parts.items():
        yield _PART.fullmatch(name) is not None and name not in {MANIFEST, SIGNATURE}, f"parts: {name!r} is no name of a part"
        yield 0 <= part.size <= MAX_PART, f"parts: {name} is larger than {MAX_PART} bytes"
    yield parts[QUANTISER].audience is Audience.CLIENT, f"parts: {QUANTISER} is for the client"


def _is_shape(shape: tuple[int, ...]) -> bool:
    return 1 <= len(shape) <= 8 and all(0 < axis <= MAX_NUMBERS for axis in shape)
