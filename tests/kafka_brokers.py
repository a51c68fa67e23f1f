"""A program: librdkafka's mock cluster with one broker, as a server of its own; it writes its port to standard output.

SIGUSR1 takes the broker down, so that connections are closed and refused, and SIGUSR2 brings it back.
"""

import ctypes
import signal
from pathlib import Path
from typing import Any

import confluent_kafka

BROKER = 1


def main() -> None:
    """Run until killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])  # None comes while none is waited for.
    (library,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka*")
    rdkafka = ctypes.CDLL(str(library))
    for function in (rdkafka.rd_kafka_new, rdkafka.rd_kafka_mock_cluster_new):
        function.restype = ctypes.c_void_p
    rdkafka.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    client = ctypes.c_void_p(rdkafka.rd_kafka_new(0, None, ctypes.create_string_buffer(256), 256))
    cluster = ctypes.c_void_p(rdkafka.rd_kafka_mock_cluster_new(client, 1))
    rdkafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 10)
    changes: dict[int, Any] = {
        signal.SIGUSR1: rdkafka.rd_kafka_mock_broker_set_down,
        signal.SIGUSR2: rdkafka.rd_kafka_mock_broker_set_up,
    }
    address: bytes = rdkafka.rd_kafka_mock_cluster_bootstraps(cluster)
    print(address.decode().rpartition(":")[2], flush=True)
    while True:
        changes[signal.sigwait(changes)](cluster, BROKER)


if __name__ == "__main__":
    main()
