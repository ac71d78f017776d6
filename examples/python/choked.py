"""A client of choked that needs nothing but the standard library.

    bucket = Choked("http://127.0.0.1:7980", token)

    @bucket.limit("openai_chat", request_limit="50/s", token_limit="100000/m", tokens=count)
    def chat(messages): ...

Every call waits its turn among all processes that use the key.
"""

import functools
import http.client
import inspect
import asyncio
import json
import socket
import threading
import time
import urllib.parse

LONGEST_WAIT = 600.0  # seconds that the service lets a call stand in line


class Error(Exception):
    """The service says why it does not decide, or cannot be reached."""


class Choked:
    """Where the service is. Threads may share it: each has a connection."""

    def __init__(self, url, token="", timeout=10.0):
        self.url = urllib.parse.urlsplit(url)
        if self.url.scheme not in ("http", "https") or not self.url.hostname:
            raise ValueError(f"url {url!r}: want http://host:port")
        self.token, self.timeout, self._local = token, timeout, threading.local()

    def acquire(self, key, request_limit=None, token_limit=None, requests=1, tokens=0, wait=30.0):
        """Waits up to so many seconds and spends the cost.

        Returns 0 when it is spent, else the seconds until it could be.
        """
        limits = {"requests": request_limit, "tokens": token_limit}
        body = json.dumps({
            "key": key,
            "limits": {unit: rate for unit, rate in limits.items() if rate},
            "cost": {"requests": requests, "tokens": tokens},
            "wait_ns": int(wait * 1e9),
        })
        status, answer = self._post("/v1/acquire", body, wait + self.timeout)
        if status == 200:
            return 0.0
        if status == 429 and "retry_after_ns" in answer:
            return max(answer["retry_after_ns"] / 1e9, 0.001)
        error = answer.get("error", {})
        raise Error(f"{key}: {error.get('code', status)}: {error.get('message', 'no reason is given')}")

    def wait(self, key, **cost):
        """Waits as long as it takes.

        A call that could not be met within its wait is refused without a place
        in line, so it asks for the longest wait there is.
        """
        while (seconds := self.acquire(key, wait=LONGEST_WAIT, **cost)) > 0:
            time.sleep(min(seconds, 1.0))

    def limit(self, key, request_limit=None, token_limit=None, tokens=None):
        """Decorates a function. tokens(*args, **kwargs) says what a call costs."""

        def decorate(call):
            def cost(args, kwargs):
                return {
                    "request_limit": request_limit,
                    "token_limit": token_limit,
                    "tokens": tokens(*args, **kwargs) if tokens else 0,
                }

            if inspect.iscoroutinefunction(call):
                @functools.wraps(call)
                async def limited(*args, **kwargs):
                    await asyncio.to_thread(self.wait, key, **cost(args, kwargs))
                    return await call(*args, **kwargs)
            else:
                @functools.wraps(call)
                def limited(*args, **kwargs):
                    self.wait(key, **cost(args, kwargs))
                    return call(*args, **kwargs)
            return limited

        return decorate

    def _post(self, path, body, timeout):
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        fresh = False
        while True:
            connection = getattr(self._local, "connection", None)
            if connection is None:
                kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
                connection = self._local.connection = kind(self.url.hostname, self.url.port)
                fresh = True
            connection.timeout = timeout
            if connection.sock:
                connection.sock.settimeout(timeout)
            try:
                if connection.sock is None:
                    connection.connect()
                    _keep_alive(connection.sock)
                connection.request("POST", self.url.path.rstrip("/") + path, body, headers)
                response = connection.getresponse()
                return response.status, json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                self._local.connection = None
                # A connection that lay idle may be closed by the service. What
                # was lost with one that is fresh may have been spent.
                if fresh:
                    raise Error(f"{self.url.geturl()}: {error}") from error


def _keep_alive(sock):
    """Has the system notice within a minute that the service is gone.

    An answer may take minutes, so its timeout would notice too late.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3):
        if hasattr(socket, name):  # not every system knows all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
