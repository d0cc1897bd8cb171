"""Executes queued reports: `python worker.py`. Start as many as you like; SIGTERM lets them finish what they do."""

import asyncio

from workflows import tide

asyncio.run(tide.work(["reports"], concurrency=20))
