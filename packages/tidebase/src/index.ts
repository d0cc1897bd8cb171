// What other packages and programs may import: starting a server, and keys for those who embed it.
export { StartError } from './errors.ts'
export { type ApiKey, createKey, listKeys, revokeKey } from './keys.ts'
export { type Log, type ServerOptions, startServer, type TidebaseServer } from './server.ts'
