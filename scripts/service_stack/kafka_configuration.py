"""What the jars do not bring: `server.properties` of a node, and the configuration of its log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"

LOG4J = """\
status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c{1})%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
# every setting at start and every record of the controller: thousands of lines that nobody reads
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=WARN
logger.loaders.name=org.apache.kafka.image
logger.loaders.level=WARN
"""

COMMON = """\
# small: many of them run at once on a laptop
num.partitions=4
num.network.threads=2
num.io.threads=4
background.threads=2
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
# a topic that nobody made is a mistake
auto.create.topics.enable=false
# events of tests are years old by their timestamps: nothing may be deleted for its age
log.retention.ms=-1
# tests may not wait for these: groups form at once, and a dead broker or consumer is noticed in seconds
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=250
broker.heartbeat.interval.ms=1000
broker.session.timeout.ms=5000
"""


class BrokerNode(NamedTuple):
    """Number and ports of one broker."""

    number: int
    port: int
    controller_port: int
    tls_port: int
    sasl_port: int


def server_properties(node: BrokerNode, nodes: Sequence[BrokerNode], data: Path, secured: dict[str, str] | None) -> str:
    """Text of `server.properties` of *node* among *nodes*, with TLS and SASL according to *secured*."""
    listeners = {"PLAINTEXT": node.port}
    if secured is not None:
        listeners |= {"SSL": node.tls_port, "SASL_SSL": node.sasl_port}
    advertised = ",".join(f"{name}://{_host(name)}:{port}" for name, port in listeners.items())
    listeners["CONTROLLER"] = node.controller_port
    bound = ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items())
    voters = ",".join(f"{one.number}@{HOST}:{one.controller_port}" for one in nodes)
    return (
        COMMON
        + f"""\
process.roles=broker,controller
node.id={node.number}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
listeners={bound}
advertised.listeners={advertised}
log.dirs={data}
"""
        + _replication(len(nodes))
        + ("" if secured is None else _security(secured))
    )


def _host(listener: str) -> str:
    return HOST if listener == "PLAINTEXT" else "localhost"


def _replication(nodes: int) -> str:
    enough = min(nodes, 2)
    return f"""\
default.replication.factor={nodes}
min.insync.replicas={enough}
offsets.topic.replication.factor={nodes}
transaction.state.log.replication.factor={nodes}
transaction.state.log.min.isr={enough}
share.coordinator.state.topic.replication.factor={nodes}
share.coordinator.state.topic.min.isr={enough}
"""


def _security(secured: dict[str, str]) -> str:
    module, prefix = "org.apache.kafka.common.security", "listener.name.sasl_ssl"
    user = f'user_{secured["user"]}="{secured["password"]}"'
    return f"""\
ssl.keystore.type=PEM
ssl.keystore.location={secured["store"]}
ssl.client.auth=none
{prefix}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
{prefix}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required {user};
{prefix}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
"""
