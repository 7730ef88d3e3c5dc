"""Stands in for the command `registry-quota` where only its processes matter: `migrate`, `serve ROLE`."""

import http.server
import os
import signal
import sys

PORT_OF = {
    "receiver": "RQ_RECEIVER_PORT",
    "consumer": "RQ_CONSUMER_METRICS_PORT",
    "api": "RQ_API_PORT",
}


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers every GET with 200."""

    def do_GET(self) -> None:
        """200, empty."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Be quiet."""


def main() -> None:
    """Run as the role that the arguments name."""
    if sys.argv[1] == "migrate":
        return
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    port = int(os.environ[PORT_OF[sys.argv[2]]])
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Ready).serve_forever()


if __name__ == "__main__":
    main()
