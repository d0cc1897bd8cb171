// /llms.txt: the server in one page, for language models.
import { type Route, routes } from '@tidebase/wire'

/** The page, made from the contract. */
export function llmsText(): string {
  const all: [string, Route][] = Object.entries(routes)
  return [
    '# Tidebase',
    '',
    '> A durable run server. A run executes a workflow in steps; a run that dies is begun again and goes on after its last',
    '> completed step. JSON over HTTP; every error is {"error", "code", "hint"} and the hint says what to do next.',
    '',
    '- Authorization: Bearer <key>, unless the server runs without keys on one machine.',
    '- A worker: POST /queues/claim, then for each step POST /runs/:runId/steps/record (or steps/begin before effects that',
    '  must not be repeated), heartbeat while it works, POST /runs/:runId/complete. Always send its leaseOwner.',
    '- 409 lease_lost: stop, another worker took over. 409 run_cancelled: stop for good. 503: try again with backoff.',
    '- Every call may be repeated: ids and names make it the same call.',
    '- The schemas of all bodies and replies: /openapi.json',
    '',
    '## Routes',
    '',
    ...all.map(([, { method, path, summary }]) => `- ${method} ${path}: ${summary}`),
    '',
  ].join('\n')
}
