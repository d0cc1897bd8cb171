// The page of a gate: what a channel's `resolveUrl` opens in a browser. Its token is the right to see and to decide it;
// looking decides nothing, because programs look at links too. No script runs, whatever the gate's data holds.
import type { BodyOf, Routes } from '@tidebase/wire'
import type { Caller, Engine } from './engine.ts'
import { ApiError } from './errors.ts'
import { type GateRow, gateToken, resolveGate, sameToken, selectGates } from './gates.ts'
import { parseId, wireId } from './ids.ts'
import { runKey } from './runs.ts'

const style =
  ':root{color-scheme:light dark;font:17px/1.6 system-ui,sans-serif}body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.25rem;background:light-dark(#f6f5f2,#15161a);color:light-dark(#1c1d21,#e9e8e6)}main{width:100%;max-width:36rem;background:light-dark(#fff,#1d1f25);border:1px solid light-dark(#dcd8d2,#363943);border-radius:1rem;padding:1.75rem}h1{font-size:1.4rem;line-height:1.25;margin:0 0 1rem;overflow-wrap:anywhere}pre{white-space:pre-wrap;overflow-wrap:anywhere;font:.9em/1.5 ui-monospace,monospace}label{display:block;margin:.8rem 0;font-weight:600}input,textarea{display:block;width:100%;box-sizing:border-box;font:inherit;padding:.5rem .7rem;margin-top:.25rem}button{font:inherit;font-weight:600;padding:.6rem 1.2rem;margin:.75rem .75rem 0 0;cursor:pointer}:focus-visible{outline:3px solid #0b6e75;outline-offset:2px}'

const replacements: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const escaped = (text: string) => text.replace(/[&<>"']/g, (character) => replacements[character] ?? character)

function page(title: string, content: string, status = 200): Response {
  const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${escaped(title)}</title><style>${style}</style></head><body><main><h1>${escaped(title)}</h1>${content}</main></body></html>`
  return new Response(html, {
    status,
    headers: {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy':
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
      'cache-control': 'no-store',
      // The token is in the address.
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff',
    },
  })
}

/** The gate that a token opens. One that does not exist and one whose token is wrong are told apart by nobody. */
async function open(
  engine: Engine,
  runId: string,
  gateId: string,
  token: string,
): Promise<GateRow & { project: number }> {
  const id = parseId('gate', gateId)
  // Whose project it is follows from whose secret made the token.
  const rows = id
    ? await engine.db.cold.query<GateRow & { project: number }>(`${selectGates} where g.run_id = $1 and g.id = $2`, [
        runKey(runId),
        id,
      ])
    : []
  const row = rows.find(({ secret }) => sameToken(gateToken(secret, gateId), token))
  if (!row) throw new ApiError('gate_not_found')
  return row
}

/** Shows a gate. @throws ApiError `run_not_found`, `gate_not_found` */
export async function gatePage(engine: Engine, runId: string, gateId: string, token: string): Promise<Response> {
  const gate = await open(engine, runId, gateId, token)
  if (gate.status !== 'pending') return page(gate.prompt, decided(gate))
  const data = gate.data === null ? '' : `<pre>${escaped(JSON.stringify(gate.data, null, 2))}</pre>`
  return page(
    gate.prompt,
    `${data}<form method="post" action="/runs/${wireId('run', gate.run_id)}/gates/${gateId}/decide"><input type="hidden" name="token" value="${escaped(token)}"><label>Your name <input name="actor" maxlength="200" autocomplete="name"></label><label>A note <textarea name="note" rows="3" maxlength="20000"></textarea></label><button name="decision" value="approved">Approve</button><button name="decision" value="rejected">Reject</button></form>`,
  )
}

const decided = ({ status, actor }: GateRow) => `<p>This was ${status}${actor ? ` by ${escaped(actor)}` : ''}.</p>`

/** Decides a gate as its page asks. @throws ApiError `run_not_found`, `gate_not_found`, `run_cancelled` */
export async function decideGate(
  engine: Engine,
  runId: string,
  gateId: string,
  body: BodyOf<Routes['decideGate']>,
): Promise<Response> {
  const gate = await open(engine, runId, gateId, body.token)
  const caller: Caller = { project: gate.project, scope: 'read', keyId: null }
  const { token, decision, actor, note } = body
  const payload = note ? { note } : undefined
  try {
    await resolveGate(engine, caller, runKey(runId), gateId, { token, decision, actor: actor || 'by link', payload })
  } catch (error) {
    if (!(error instanceof ApiError && error.code === 'gate_resolved')) throw error
    return page(gate.prompt, decided(await open(engine, runId, gateId, token)), 409)
  }
  return page(gate.prompt, decided({ ...gate, status: decision, actor: actor || null }))
}
