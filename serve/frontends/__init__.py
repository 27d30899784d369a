"""`--frontends N`: gRPC in N processes on one port, the engines in another.

A Python process answers a few thousand calls a second, however fast its engine. So the front ends are processes of
their own, which parse and format, and all feed one *owner*, which has the batcher and the engines: batches form in one
place, and limits and deadlines mean what they mean in one process. Images and answers go through rings in shared
memory. A *supervisor* starts all of them, and starts again what dies.

    caller ── gRPC ──▶ front end ── ring ──▶ owner: batcher, engines
                                 ◀── ring ──
"""
