"""Three threads and three tasks share 20 calls a second.

    choked serve &
    CHOKED_URL=http://127.0.0.1:7980 python3 example.py
"""

import asyncio
import os
import threading
import time

from choked import Choked, Error

bucket = Choked(os.environ.get("CHOKED_URL", "http://127.0.0.1:7980"), os.environ.get("CHOKED_TOKEN", ""))
calls = []


@bucket.limit("python", request_limit="20/s burst 5", token_limit="10000/s", tokens=lambda text: len(text) // 4)
def call(text):
    calls.append(time.monotonic())


@bucket.limit("python", request_limit="20/s burst 5", token_limit="10000/s", tokens=lambda text: len(text) // 4)
async def call_later(text):
    calls.append(time.monotonic())


def work():
    for _ in range(5):
        call("What is a token? " * 4)


async def tasks():
    await asyncio.gather(*(call_later("What is a bucket?") for _ in range(10)))


began = time.monotonic()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
asyncio.run(tasks())
for thread in threads:
    thread.join()
took = time.monotonic() - began
print(f"{len(calls)} calls in {took:.2f} s: {'within' if len(calls) <= 5 + 20 * took else 'over'} the limit")

seconds = bucket.acquire("impatient", request_limit="1/m burst 2", requests=2, wait=0)
seconds = bucket.acquire("impatient", request_limit="1/m burst 2", requests=2, wait=0)
print(f"in {seconds:.0f} s")

try:
    bucket.acquire("large", request_limit="5/s", requests=6)
except Error as error:
    print(error)
