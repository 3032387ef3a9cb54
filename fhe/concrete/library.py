"""A circuit becomes a library that computes: compiled from its portable form, or taken as it was compiled by the model's owner.

Compiling takes a second and needs the linker `ld`; what it makes is kept in the cache, under the model's hash and the compiler's
version. Where there is no linker, the bundle's native form is used, if it was made for this platform with this very version.
Either way the parameters must come out as the client has them, or keys and ciphertexts would not fit.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from concrete import compiler  # type: ignore[import-not-found,unused-ignore]

from fhe.bundle import MAX_P_ERROR_LOG2, Bundle, Security
from fhe.concrete.options import CIRCUIT, NATIVE, PACKAGE, PROGRAM, Options, read_options
from fhe.errors import BundleError, Unavailable

_SHARED, _INFO = "sharedlib.so", "program_info.concrete.params.json"
"""Names that the compiler gives its files."""

HERE = f"{platform.system()}-{platform.machine()}"


def check_version(bundle: Bundle) -> str:
    """The version of the compiler, here and in the bundle. Raises BundleError when they are two."""
    here, made = importlib.metadata.version(PACKAGE), bundle.model.versions.get(PACKAGE)
    if here != made:
        raise BundleError(
            f"{bundle.model.id} was compiled with {PACKAGE} {made}, and {here} is here; parameters and encodings differ "
            f"between versions, so compile the model anew, or make the worker's environment of the version that it names"
        )
    return here


def load_library(bundle: Bundle, cache: Path) -> Any:
    """The compiled circuit. Raises BundleError, Unavailable."""
    directory = cache / f"{bundle.hash}-{check_version(bundle)}"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if cache.stat().st_mode & 0o022 or cache.stat().st_uid != os.geteuid():
        raise Unavailable(f"others could put programs into {cache}, which are run from there; run: chmod 700 {cache}")
    if not (directory / _SHARED).exists():
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            _make(bundle, Path(scratch))
            made = Path(scratch) / "made"
            made.mkdir()
            for name in (_SHARED, _INFO):
                shutil.move(Path(scratch) / name, made / name)
            try:
                made.rename(directory)
            except OSError:
                if not (directory / _SHARED).exists():  # another worker was faster
                    raise
    library = compiler.Library(str(directory))
    if json.loads(library.get_program_info().serialize()) != json.loads(bundle.part(PROGRAM)):
        raise BundleError(
            f"{bundle.model.id} compiles here to other parameters than its clients have; its owner has to compile it anew"
        )
    return library


def compile_circuit(mlir: str, options: Options, security: Security, directory: Path) -> Any:
    """The circuit compiled into `directory`. Whatever the compiler raises goes on."""
    chosen = compiler.CompilationOptions(compiler.Backend.CPU)
    chosen.set_loop_parallelize(options.loop_parallelize)
    chosen.set_compress_evaluation_keys(options.compress_keys)
    chosen.set_compress_input_ciphertexts(options.compress_inputs)
    chosen.set_global_p_error(1.0)  # which leaves the choice to the error of each look-up
    chosen.set_p_error(2.0 ** (security.p_error_log2 or MAX_P_ERROR_LOG2))
    chosen.set_security_level(security.bits)
    strategies = {"mono": compiler.OptimizerStrategy.DAG_MONO, "multi": compiler.OptimizerStrategy.DAG_MULTI}
    chosen.set_optimizer_strategy(strategies[options.strategy])
    made = compiler.Compiler(
        str(directory),
        compiler.lookup_runtime_lib(),
        generate_shared_lib=True,
        generate_static_lib=False,
        generate_program_info=True,
        generate_compilation_feedback=True,
    )
    return made.compile(mlir, chosen)


def native_form(directory: Path) -> bytes:
    """The shared library in `directory`, without the path of the machine's own environment, which the linker writes into it.

    The runtime that it needs is loaded already wherever the compiler is imported, and is found by its name.
    """
    data = (directory / _SHARED).read_bytes()
    path = str(Path(compiler.lookup_runtime_lib()).parent).encode()
    return data.replace(path, b"$ORIGIN".ljust(len(path), b"\0"))


def _make(bundle: Bundle, directory: Path) -> None:
    """Raises BundleError, Unavailable."""
    options = read_options(bundle)
    if shutil.which("ld") is not None:
        try:
            compile_circuit(bundle.part(CIRCUIT).decode(), options, bundle.model.security, directory)
        except (RuntimeError, UnicodeError) as error:
            raise BundleError(f"the circuit of {bundle.model.id} does not compile; its owner has to make it anew") from error
        return
    if options.platform != HERE or not bundle.has(NATIVE):
        raise Unavailable(
            f"the circuit of {bundle.model.id} has to be compiled here, which needs the linker ld (on Debian and Ubuntu: "
            f"apt install binutils); its native form is for {options.platform}, and this is {HERE}"
        )
    (directory / _SHARED).write_bytes(bundle.part(NATIVE))
    (directory / _SHARED).chmod(0o700)
    (directory / _INFO).write_bytes(bundle.part(PROGRAM))
