"""Workers for the pool's tests: they speak the protocol and never touch a GPU."""

import os
import signal
import sys
import time

from evolve.judge.gpu.wire import Channel, Closed


def obedient(channel: Channel) -> None:
    """Does what it is told, however rude."""
    while True:
        try:
            order = channel.receive()
        except Closed:
            return
        what = order.get("op")
        if what == "open":
            channel.send({"opened": os.getpid(), "environment": dict(os.environ)})
        elif what == "echo":
            channel.send({"echo": order["text"]})
        elif what == "hang":
            channel.send({"at": {"phase": "candidate", "workload": "big"}, "seconds": order["seconds"]})
            time.sleep(600)
        elif what == "chatter":  # says where it is for ever
            for _ in range(order["times"]):
                channel.send({"at": {"phase": "inputs"}})
                time.sleep(order["pause"])
            channel.send({"done": True})
        elif what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "leave":
            os._exit(0)
        elif what == "raise":
            raise RuntimeError("a worker's own mistake")
        elif what == "fault":
            channel.send({"fault": "cuda", "text": "an illegal memory access was encountered"})
        elif what == "flood":
            os.write(channel.fileno(), b"\xff\xff\xff\xff" + b"x" * 1000)
        elif what == "garbage":
            os.write(channel.fileno(), b"\x00\x00\x00\x05hello")
        elif what == "child":
            pid = os.fork()
            if not pid:
                time.sleep(600)
            channel.send({"child": pid})


def slow_to_open(channel: Channel) -> None:
    time.sleep(0.5)
    obedient(channel)


def dies_first(channel: Channel) -> None:
    """Every worker of this kind dies while opening."""
    channel.receive()
    sys.exit(3)
