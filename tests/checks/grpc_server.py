"""A gRPC server with the standard health service: `python -m tests.checks.grpc_server PORT`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def serve(port: int) -> None:
    """Serve until the end."""
    server = grpc.server(ThreadPoolExecutor(4))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for status in ("SERVING", "NOT_SERVING", "UNKNOWN"):
        servicer.set(status.lower(), health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
