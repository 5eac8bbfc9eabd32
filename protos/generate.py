"""Writes the Python package `generated/` from the protos: messages, stubs, type stubs, descriptors.

Run it as `make proto`. With `--out DIR` it writes elsewhere, which is how the freshness test compares.
The descriptor set keeps the comments, which the stubs drop: the edge needs them for the OpenAPI document.
"""

import argparse
import sys
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2
from grpc_tools import protoc

PROTOS = Path(__file__).parent
DESCRIPTORS = Path("boxoffice/descriptors.binpb")
PLUGINS = ("mypy", "mypy_grpc")


def _sources() -> list[str]:
    return sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))


def _include_paths() -> list[str]:
    # google/api and google/rpc come with googleapis-common-protos, google/protobuf with grpcio-tools.
    google_apis = Path(annotations_pb2.__file__).parents[2]
    return [str(PROTOS), str(google_apis), str(Path(grpc_tools.__file__).parent / "_proto")]


def generate(out: Path) -> None:
    """Compiles every proto into `out`. Raises SystemExit with protoc's own words when one does not compile."""
    (out / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        # The plugins are beside the interpreter, which need not be on the PATH.
        *(f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}" for name in PLUGINS),
        *(f"--proto_path={path}" for path in _include_paths()),
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        f"--descriptor_set_out={out / DESCRIPTORS}",
        "--include_imports",
        "--include_source_info",
        *_sources(),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc refused the protos; see above")
    for stub in _stubs_without_rpcs(out):
        stub.unlink()


def _stubs_without_rpcs(out: Path) -> list[Path]:
    """The `_pb2_grpc` files of protos without a service, which protoc writes all the same."""
    with_services = {
        out / source.replace(".proto", "_pb2_grpc.py")
        for source in _sources()
        if "\nservice " in (PROTOS / source).read_text()
    }
    return [
        file
        for stub in out.rglob("*_pb2_grpc.py")
        if stub not in with_services
        for file in (stub, stub.with_suffix(".pyi"))
        if file.exists()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=PROTOS.parent / "generated")
    generate(parser.parse_args().out)


if __name__ == "__main__":
    main()
