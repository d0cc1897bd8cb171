"""The asyncio client is as gen_aio.py makes it."""

from __future__ import annotations

import subprocess
import sys
import unittest
from pathlib import Path


class Generated(unittest.TestCase):
    def test_the_asyncio_client_is_current(self) -> None:
        script = Path(__file__).resolve().parents[1] / "gen_aio.py"
        subprocess.run([sys.executable, str(script), "--check"], check=True)
