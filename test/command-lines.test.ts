import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { serverOptions } from '../packages/tidebase/src/index.ts'

// What the servers are started with, as people and agents mistype it.

const bins = {
  tidebase: fileURLToPath(new URL('../packages/tidebase/bin/tidebase.mjs', import.meta.url)),
  platform: fileURLToPath(new URL('../packages/platform/bin/tidepool-platform.mjs', import.meta.url)),
}

/** Runs a program to its end. @returns its exit code and its only line on standard output, as JSON */
function run(bin: keyof typeof bins, args: string[], env: Record<string, string> = {}) {
  return new Promise<{ exit: unknown; said: unknown }>((resolve) => {
    execFile(process.execPath, [bins[bin], ...args], { env: { ...process.env, ...env } }, (error, stdout) => {
      resolve({ exit: error?.code ?? 0, said: JSON.parse(stdout) })
    })
  })
}

test.each<[keyof typeof bins, string[], exit: number, said: object]>([
  ['tidebase', ['strat'], 2, { error: 'There is no command "strat".', code: 'usage' }],
  ['tidebase', ['start', '--prot', '1'], 2, { error: "unknown option '--prot'", code: 'usage' }],
  ['tidebase', ['keys', 'create', 'x', '--scope', 'all'], 2, { code: 'usage', error: /worker, enqueue/ }],
  ['platform', ['strat'], 2, { error: 'There is no command "strat".', code: 'usage' }],
  ['platform', ['--port', '99999'], 2, { error: /a port is 0 to 65535/, code: 'usage' }],
  ['platform', ['--url', 'apps.example.com'], 1, { error: /^--url must be an address that/, code: 'invalid_setting' }],
])('%s %j is not understood, and says so in the one shape of errors', async (bin, args, exit, said) => {
  const answer = await run(bin, [...args, '--json'])
  const wanted = Object.fromEntries(
    Object.entries(said).map(([field, value]) => [
      field,
      value instanceof RegExp ? expect.stringMatching(value) : value,
    ]),
  )
  expect(answer).toEqual({ exit, said: { hint: expect.any(String), ...wanted } })
})

test('a variable that is wrong is named, and what it holds is not shown', { timeout: 60_000 }, async () => {
  const wrong = {
    exit: 1,
    said: { code: 'invalid_setting', error: expect.stringMatching(/^TIDEBASE_LEASE_MS must be/) },
  }
  for (const bin of ['tidebase', 'platform'] as const)
    expect(await run(bin, ['start', '--json'], { TIDEBASE_LEASE_MS: '1e99' })).toMatchObject(wrong)
  expect(await run('tidebase', ['start', '--json'], { LOG_LEVEL: 'loud' })).toMatchObject({
    said: { code: 'invalid_setting', error: expect.stringMatching(/^LOG_LEVEL must be one of trace/) },
  })
  const far = { HOST: 'not-here.invalid', TIDEBASE_API_KEY: 'k', DATABASE_URL: 'postgres://a:pass@127.0.0.1:1/x' }
  const { said } = await run('tidebase', ['start', '--json'], far)
  expect(said).toMatchObject({ code: 'database_unavailable' })
  expect(JSON.stringify(said)).not.toContain('pass')
})

test.each([
  ['PORT', ['-1', '65536', '80.5', '0x50', 'http'], ['0', '65535', ' 80 ', '']],
  ['DATABASE_URL', ['mysql://u:secret@h/d', 'secret'], ['postgres://h/d', 'postgresql:///d?host=/run', '/run/pg d']],
  ['TIDEBASE_PUBLIC_URL', ['example.com', 'ftp://example.com'], ['https://example.com/base']],
  ['TIDEBASE_LEASE_MS', ['99', '86400001', '1e3', '-5'], ['100', '86400000']],
  ['TIDEBASE_RECONCILE_MS', ['9', '3600001'], ['10', '3600000']],
  ['TIDEBASE_RETENTION_DAYS', ['-1', '36501', 'never'], ['0', '36500']],
  ['TIDEBASE_MAX_BODY', ['1023', '268435457', '4MB'], ['1024', '268435456']],
  ['TIDEBASE_RECONCILER', ['off', 'no', '2'], ['0', '1', 'true', 'FALSE', '']],
  ['TIDEBASE_AUTO_MIGRATE', ['off'], ['0']],
  ['TIDEBASE_ALLOW_PRIVATE_WEBHOOKS', ['yes'], ['1']],
  ['TIDEBASE_CORS_ORIGIN', ['example.com', 'https://a.example, b'], ['*', 'https://a.example/, http://b.example:8080']],
])('%s takes what it can hold and refuses the rest by name', (name, refused, taken) => {
  for (const value of taken) expect(() => serverOptions({ [name]: value })).not.toThrow()
  for (const value of refused) {
    const read = () => serverOptions({ [name]: value })
    expect(read).toThrow(expect.objectContaining({ code: 'invalid_setting', hint: expect.stringContaining(name) }))
    expect(read).toThrow(new RegExp(`^${name} must be `))
    expect(read).not.toThrow('secret')
  }
})

test('what the variables say is what the server gets', () => {
  expect(serverOptions({})).toEqual({ reconciler: true, autoMigrate: true, corsOrigins: [] })
  const options = serverOptions({
    PORT: '80',
    TIDEBASE_RECONCILER: '0',
    TIDEBASE_CORS_ORIGIN: 'https://App.example.com/, *',
    TIDEBASE_ALLOW_PRIVATE_WEBHOOKS: '0',
  })
  const corsOrigins = ['https://app.example.com', '*']
  expect(options).toMatchObject({ port: 80, reconciler: false, corsOrigins, allowPrivateWebhooks: false })
  const inside = serverOptions(
    { PORT: '8080', TIDEBASE_PORT: '7000' },
    { port: 'TIDEBASE_PORT', host: 'TIDEBASE_HOST' },
  )
  expect(inside.port).toBe(7000)
})
