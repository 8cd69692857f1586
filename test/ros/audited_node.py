"""The node `ovseg`, which writes a line when Python opens a connection in it, or imports the offline tools."""

import sys
from typing import Any

CONNECTIONS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"}


def report(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook."""
    if event in CONNECTIONS or (event == "import" and arguments[0].startswith("ovseg_ros.offline")):
        print(f"audit: {event} {arguments[0]}", flush=True)


sys.addaudithook(report)

from ovseg_ros.ros.node.segment_node import main  # noqa: E402 (what is imported is watched)

if __name__ == "__main__":
    main()
