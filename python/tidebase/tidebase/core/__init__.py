"""What an execution does, written once for the blocking and the asyncio client."""
