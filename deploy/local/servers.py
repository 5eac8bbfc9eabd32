"""The servers that Boxoffice stands on: Valkey, MariaDB, Apache Kafka, and a stand-in for SNS."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from deploy.local import packages, readiness
from deploy.local.site import ProcessSpec, Site, write_private

# Quick to start and small: the one-node broker of a development machine shares two cores with everything else.
_JAVA = ("java", "-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_LOG4J = Path(__file__).parent / "kafka" / "log4j2.properties"
# Valkey's databases cost nothing until used; tests take one each.
_VALKEY_DATABASES = 512


def _valkey(site: Site) -> list[str]:
    options = {
        "bind": "127.0.0.1",
        "port": str(site.port("valkey", "redis")),
        "dir": str(site.data("valkey")),
        "databases": str(_VALKEY_DATABASES),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [str(packages.valkey_server()), *flags]


def _mariadb_environment(_site: Site) -> dict[str, str]:
    prefix = packages.mariadb()
    return packages.debian_environment(prefix) if prefix else dict(os.environ)


def _mariadb_options(site: Site) -> list[str]:
    """Returns what the server and its installer share. `--no-defaults` keeps the system's configuration out.

    The folder for temporary tables is the stack's own: a server that starts deletes whatever such tables it finds,
    those of another stack's server included.
    """
    prefix = packages.mariadb()
    base = [f"--basedir={prefix}/usr"] if prefix else []
    user = ["--user=root"] if os.geteuid() == 0 else []
    folders = [f"--datadir={site.data('mariadb')}", f"--tmpdir={site.data('mariadb-tmp')}"]
    return ["--no-defaults", *base, *user, *folders, "--skip-name-resolve"]


def _program(name: str, path: str) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        raise packages.PackageError(f"{name} is missing")
    return found


def _prepare_mariadb(site: Site) -> None:
    environment = _mariadb_environment(site)
    if not (site.data("mariadb") / "mysql").is_dir():
        installer = _program("mariadb-install-db", environment["PATH"])
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--force"]
        with site.log("mariadb").open("ab") as log:
            command = [installer, *_mariadb_options(site), *options]
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    write_private(_init_file(site), _accounts(site))


def _init_file(site: Site) -> Path:
    return site.data("mariadb") / "init.sql"


def _accounts(site: Site) -> str:
    """Returns the SQL that leaves root and one account, which may do anything to databases named `boxoffice_…`."""
    password = site.mysql_url("").partition(":")[2].partition(":")[2].partition("@")[0]
    return "\n".join(
        (
            "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');",
            "FLUSH PRIVILEGES;",
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';",
            f"CREATE USER IF NOT EXISTS 'boxoffice'@'127.0.0.1' IDENTIFIED BY '{password}';",
            "GRANT ALL ON `boxoffice\\_%`.* TO 'boxoffice'@'127.0.0.1';",
            "CREATE DATABASE IF NOT EXISTS boxoffice_auth CHARACTER SET utf8mb4;",
            "CREATE DATABASE IF NOT EXISTS boxoffice_inventory CHARACTER SET utf8mb4;",
            "",
        )
    )


def _mariadb(site: Site) -> list[str]:
    return [
        _program("mariadbd", _mariadb_environment(site)["PATH"]),
        *_mariadb_options(site),
        "--bind-address=127.0.0.1",
        f"--port={site.port('mariadb', 'mysql')}",
        "--socket=mariadb.sock",  # relative to the data folder: the path of a socket may have 107 bytes only
        f"--init-file={_init_file(site)}",
        "--character-set-server=utf8mb4",
        "--default-time-zone=+00:00",
        "--max-connections=500",
        "--innodb-buffer-pool-size=256M",
        "--innodb-flush-log-at-trx-commit=1",
    ]


def _classpath() -> list[str]:
    return ["-cp", f"{packages.kafka()}/*", f"-Dlog4j2.configurationFile={_LOG4J}"]


def _prepare_kafka(site: Site) -> None:
    properties = site.data("kafka") / "server.properties"
    write_private(properties, _kafka_properties(site))
    if not (site.data("kafka") / "logs" / "meta.properties").exists():
        cluster = ["-t", secrets.token_urlsafe(16), "-c", str(properties)]
        with site.log("kafka").open("ab") as log:
            command = [*_JAVA, *_classpath(), "kafka.tools.StorageTool", "format", *cluster]
            subprocess.run(command, stdout=log, stderr=log, check=True)


def _kafka_properties(site: Site) -> str:
    broker, controller = site.address("kafka", "broker"), site.address("kafka", "controller")
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "log.dirs": str(site.data("kafka") / "logs"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # A group starts to read at once instead of waiting for members that may never come.
        "group.initial.rebalance.delay.ms": "0",
        # The cleaner's default of 128 MB is a quarter of this broker's heap.
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def _kafka(site: Site) -> list[str]:
    return [*_JAVA, *_classpath(), "kafka.Kafka", str(site.data("kafka") / "server.properties")]


def _sns(site: Site) -> Sequence[str]:
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(site.port("sns", "http"))]


VALKEY = ProcessSpec("valkey", _valkey, lambda site: readiness.valkey(site.port("valkey", "redis")))
MARIADB = ProcessSpec(
    "mariadb",
    _mariadb,
    lambda site: readiness.mariadb(site.port("mariadb", "mysql")),
    environment=_mariadb_environment,
    prepare=_prepare_mariadb,
    grace=timedelta(seconds=30),  # InnoDB writes its pages back
)
KAFKA = ProcessSpec(
    "kafka",
    _kafka,
    lambda site: readiness.kafka(site.port("kafka", "broker")),
    prepare=_prepare_kafka,
    grace=timedelta(seconds=30),  # a controlled shutdown flushes every partition
)
SNS = ProcessSpec("sns", _sns, lambda site: readiness.http_ok(site.port("sns", "http"), "/moto-api/"))

SERVERS = (VALKEY, MARIADB, KAFKA, SNS)
