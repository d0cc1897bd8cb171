// What every SDK must agree on, read from the files that all of them read.
import { resumeContract, resumeDecision, stableJson } from '@tidebase/wire/contract'
import { expect, test } from 'vitest'
import hashes from '../../../test/conformance/input-hash.json' with { type: 'json' }
import contracts from '../../../test/conformance/resume-contract.json' with { type: 'json' }
import signatures from '../../../test/conformance/webhook-signature.json' with { type: 'json' }
import { inputHash, verifyWebhook } from '../src/index.ts'

for (const { name, json, stable, sha256 } of hashes.vectors) {
  test(`input hash: ${name}`, () => {
    const input: unknown = json === null ? undefined : JSON.parse(json)
    expect(stableJson(input)).toBe(stable)
    expect(inputHash(input)).toBe(sha256)
  })
}

test('what JSON leaves out is left out of the hash', () => {
  expect(stableJson({ b: undefined, a: [undefined], c: () => 1 })).toBe('{"a":[null]}')
  expect(stableJson({ at: new Date(0) })).toBe('{"at":"1970-01-01T00:00:00.000Z"}')
  expect(stableJson([Number.NaN, Number.POSITIVE_INFINITY])).toBe('[null,null]')
  expect(() => inputHash({ n: 1n })).toThrow(TypeError)
})

test.each(contracts.vectors)('resume contract: $name', ({ options, contract, decision }) => {
  expect(resumeContract(options)).toEqual(contract)
  expect(resumeDecision(options)).toBe(decision)
})

test.each(signatures.vectors)('webhook signature: $name', ({ secret, body, header, valid }) => {
  expect(verifyWebhook(secret, body, header)).toBe(valid)
  expect(verifyWebhook(secret, new TextEncoder().encode(body), header)).toBe(valid)
})

test('nothing is valid without a secret', () => {
  expect(verifyWebhook('', 'x', 'sha256=')).toBe(false)
})
