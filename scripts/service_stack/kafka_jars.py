"""Apache Kafka's jars: fetched once by Maven into the cache, then the same for every cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .system import ServiceUnavailable, cache_folder, ensure_command, last_lines, locked, run

KAFKA_VERSION = "4.4.0"
"""The newest release that runs on Java 17; `docker-compose.yml` has the same (a test holds them together)."""

SCALA = "2.13"
LOG4J_VERSION = "2.25.5"
"""Of the binding alone, which Kafka's own distribution ships and its pom does not name: that of its log4j-core."""

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>trustwatch</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_{SCALA}</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
JAVA_AT_LEAST = 17


def java() -> str:
    """Path of a Java that can run the brokers.

    Raises:
        Unavailable: none, none can be installed, or it is too old.
    """
    found = ensure_command("java", "default-jre-headless")
    said = run([found, "-version"]).stdout
    version = re.search(r'version "(\d+)', said)
    if version is None or int(version.group(1)) < JAVA_AT_LEAST:
        raise ServiceUnavailable(f"Kafka {KAFKA_VERSION} needs Java {JAVA_AT_LEAST} or newer; {found} says:\n{said}")
    return found


def kafka_jars() -> Path:
    """Folder with the jars of Kafka and all that it needs at run time.

    Raises:
        Unavailable: they are not in the cache and cannot be fetched.
    """
    folder = cache_folder() / f"kafka-{KAFKA_VERSION}"
    if folder.is_dir():
        return folder
    with locked(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    maven = ensure_command("mvn", "maven")
    java()
    work = Path(tempfile.mkdtemp(prefix="fetch-", dir=folder.parent))
    try:
        (work / "pom.xml").write_text(POM)
        command = [maven, "-B", "-q", "-C", COPY, "-DincludeScope=runtime", f"-DoutputDirectory={work / 'jars'}"]
        try:
            done = run(command, folder=work, timeout_s=900)
        except subprocess.TimeoutExpired:
            raise ServiceUnavailable(f"Maven did not fetch Kafka {KAFKA_VERSION} within 15 minutes") from None
        if done.returncode != 0:
            raise ServiceUnavailable(f"Maven can not fetch Kafka {KAFKA_VERSION}:\n{last_lines(done.stdout)}")
        (work / "jars").rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
