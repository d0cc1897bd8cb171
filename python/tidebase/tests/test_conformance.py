"""What every SDK must agree on, read from the files that all of them read."""

from __future__ import annotations

import json
import math
import unittest

from tidebase import input_hash, resume_contract, resume_decision, sign_webhook, verify_webhook_signature
from tidebase.contract import stable_json

from .helpers import vectors


class Conformance(unittest.TestCase):
    def test_input_hash(self) -> None:
        for vector in vectors("input-hash.json")["vectors"]:
            with self.subTest(vector["name"]):
                value = None if vector["json"] is None else json.loads(vector["json"])
                self.assertEqual(stable_json(value), vector["stable"])
                self.assertEqual(input_hash(value), vector["sha256"])

    def test_what_is_json_only_in_python(self) -> None:
        self.assertEqual(stable_json((1, [2])), "[1,[2]]")
        self.assertEqual(stable_json({1: "a", True: "b", None: 2}), '{"1":"b","null":2}')
        self.assertEqual(stable_json(10**21), "1e+21")
        for value in (math.nan, math.inf, 10**400, {1, 2}, object(), b"x"):
            with self.assertRaises(TypeError):
                input_hash(value)

    def test_resume_contract(self) -> None:
        for vector in vectors("resume-contract.json")["vectors"]:
            with self.subTest(vector["name"]):
                self.assertEqual(resume_contract(vector["options"]), vector["contract"])
                self.assertEqual(resume_decision(vector["options"]), vector["decision"])

    def test_webhook_signature(self) -> None:
        for vector in vectors("webhook-signature.json")["vectors"]:
            with self.subTest(vector["name"]):
                secret, body, header = vector["secret"], vector["body"], vector["header"]
                self.assertEqual(verify_webhook_signature(secret, body, header), vector["valid"])
                self.assertEqual(verify_webhook_signature(secret, body.encode(), header), vector["valid"])
        self.assertFalse(verify_webhook_signature("", "x", sign_webhook("", "x")))
