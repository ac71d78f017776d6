"""A client of choked that needs nothing but the standard library.

    bucket = Choked("http://127.0.0.1:7980", token)

    @bucket.limit("openai_chat", request_limit="50/s", token_limit="100000/m", tokens=count)
    def chat(messages): ...

    bucket.wait("claude", limits="requests 50/m; input 40000/m; spend $50/d", input=900, spend_microdollars=2700)

Every call waits in one queue with those of all processes that use the key.
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

LONGEST_WAIT = 600.0  # seconds: the longest wait that the service accepts


class Error(Exception):
    """The service refused the call with an error, or could not be reached."""


class Choked:
    """A client of the service at url. Threads may share it: each has a connection."""

    def __init__(self, url, token="", timeout=10.0):
        self.url = urllib.parse.urlsplit(url)
        if self.url.scheme not in ("http", "https") or not self.url.hostname:
            raise ValueError(f"url {url!r}: want http://host:port")
        self.token, self.timeout, self._local = token, timeout, threading.local()

    def acquire(self, key, request_limit=None, token_limit=None, limits=None, wait=30.0, **cost):
        """Waits up to wait seconds for quota and spends the cost.

        limits are the rates of all units in one text, instead of request_limit and
        token_limit. The cost is given by the names of its units: requests, 1 unless
        given, tokens, input, output, and spend_microdollars.

        Returns 0 if the cost was spent, else the seconds after which to retry.
        """
        short = {"requests": request_limit, "tokens": token_limit}
        if limits and any(short.values()):
            raise ValueError(f"limits {limits!r} beside request_limit or token_limit: want either")
        body = json.dumps({
            "key": key,
            "limits": limits or "; ".join(f"{unit} {rate}" for unit, rate in short.items() if rate),
            "cost": cost,
            "wait_ns": int(wait * 1e9),
        })
        status, answer = self._post("/v2/acquire", body, wait + self.timeout)
        if status == 200:
            return 0.0
        if status == 429 and "retry_after_ns" in answer:
            return max(answer["retry_after_ns"] / 1e9, 0.001)
        error = answer.get("error", {})
        raise Error(f"{key}: {error.get('code', status)}: {error.get('message', 'no message')}")

    def wait(self, key, **cost):
        """Waits without a bound and spends the cost.

        The service refuses a call at once if it cannot be granted within its wait,
        and a refused call has no place in the queue. So this asks for the longest wait.
        """
        while (seconds := self.acquire(key, wait=LONGEST_WAIT, **cost)) > 0:
            time.sleep(min(seconds, 1.0))

    def limit(self, key, request_limit=None, token_limit=None, tokens=None, limits=None, cost=None):
        """Decorates a function. tokens(*args, **kwargs) returns the tokens of a call.

        With limits, cost(*args, **kwargs) returns its units, as in {"input": 900}.
        """
        shared = {"request_limit": request_limit, "token_limit": token_limit, "limits": limits}

        def decorate(call):
            def needs(args, kwargs):
                units = cost(*args, **kwargs) if cost else {}
                return shared | units | ({"tokens": tokens(*args, **kwargs)} if tokens else {})

            if inspect.iscoroutinefunction(call):
                @functools.wraps(call)
                async def limited(*args, **kwargs):
                    await asyncio.to_thread(self.wait, key, **needs(args, kwargs))
                    return await call(*args, **kwargs)
            else:
                @functools.wraps(call)
                def limited(*args, **kwargs):
                    self.wait(key, **needs(args, kwargs))
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
                # The service may have closed an idle connection: retry on a new one.
                # A call that failed on a new one may have spent its cost: do not retry.
                if fresh:
                    raise Error(f"{self.url.geturl()}: {error}") from error


def _keep_alive(sock):
    """Lets the system detect a lost service within a minute.

    An answer may take minutes, so the timeout of a read would detect it later.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3):
        if hasattr(socket, name):  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
