"""Health of the container: whether the service in it says that it is ready. Exit status 1 where it does not."""

import http.client
import os
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["TRUSTWATCH_LISTEN_PORT"]), timeout=4)
try:
    connection.request("GET", "/readyz")
    ready = connection.getresponse().status == http.client.OK
except OSError:
    ready = False
sys.exit(not ready)
