// What other packages and programs may import: starting a server, its settings, and keys for those who embed it.

export { usageError } from './command-line.ts'
export { logLevels, serverOptions, variables } from './environment.ts'
export { StartError } from './errors.ts'
export { type ApiKey, createKey, listKeys, revokeKey } from './keys.ts'
export { type Log, type ServerOptions, startServer, type TidebaseServer } from './server.ts'
