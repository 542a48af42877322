"""An S3-compatible server on this machine, for tests: moto's, in a process of its own, its writes one at a time.

python -m tests.object_server      prints its port and serves until it is ended
"""

import os
import subprocess
import sys
import threading

KEYS = {
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip


class ObjectServer:
    """The server; `env` is what a process needs to reach it."""

    def __init__(self):
        command = [sys.executable, "-m", "tests.object_server"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.env = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._process.stdout.readline().strip()}"}

    def new_bucket(self):
        """The URL of an empty bucket; the environment must name the server."""
        import boto3

        name = f"test-{os.urandom(6).hex()}"
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
        return f"s3://{name}"

    def close(self):
        self._process.kill()
        self._process.communicate()


def main():
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def in_turn(environ, start_response):
        """moto looks whether a name is taken and then takes it: of two at once both might find it free."""
        if environ["REQUEST_METHOD"] != "PUT":
            return app(environ, start_response)
        with lock:
            return list(app(environ, start_response))

    server = make_server("127.0.0.1", 0, in_turn, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
