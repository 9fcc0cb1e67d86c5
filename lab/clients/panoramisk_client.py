"""The AMI client panoramisk as its users write it: one line of JSON with what it was told.

`PORT USER SECRET ALLOWED HELD`: dial strings of a trunk that may be dialed and of one that may not. Any surprise is an exception.
"""

import asyncio
import json
import sys

from panoramisk import Manager


async def main(port, user, secret, allowed, held):
    # The keys are set, and the loop handed over, as panoramisk's own examples do it.
    manager = Manager(loop=asyncio.get_running_loop(), host="127.0.0.1", port=int(port), username=user, secret=secret, ping_delay=1, ping_interval=1)
    booted, ended, seen = asyncio.Event(), asyncio.Event(), []

    def on_event(manager, event):
        seen.append(event.event)
        if event.event == "FullyBooted":
            booted.set()
        if event.event == "Hangup":
            ended.set()

    manager.register_event("*", on_event)
    await manager.connect()
    await asyncio.wait_for(booted.wait(), 10)

    async def ask(action, **more):
        return await asyncio.wait_for(manager.send_action(action, **more), 15)

    said = {"authenticated": manager.authenticated}
    said["ping"] = (await ask({"Action": "Ping"})).ping
    endpoints = await ask({"Action": "PJSIPShowEndpoints"})
    said["endpoints"] = sum(message.event == "EndpointList" for message in endpoints)
    command = await asyncio.wait_for(manager.send_command("core show version"), 15)
    said["command"] = [command.response, command.output]
    for name, channel in (("allowed", allowed), ("held", held)):
        answer = await ask({"Action": "Originate", "Channel": channel, "Application": "Wait", "Data": "1", "Timeout": "9000", "Async": "true",
                            "Variable": ["A=1", "B=2"]})
        first = answer[0] if isinstance(answer, list) else answer
        said[name] = [first.response, first.message] + ([one.event for one in answer[1:]] if isinstance(answer, list) else [])
    await asyncio.wait_for(ended.wait(), 15)
    said["events"] = sorted(set(seen))
    manager.close()
    print(json.dumps(said))


asyncio.run(main(*sys.argv[1:]))
