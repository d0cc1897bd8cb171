/**
 * What the platform takes from the runtime: the records' rules, addresses, names of files, how a pod is built and run.
 */
export type { Attachment, FileInfo, Json, Mail, Mailbox, Outcome, SentMail, Space, Write, Written } from './backend.ts'
export { maxFilesSize } from './backend.ts'
export { spaceNames } from './backend-local.ts'
export { bundleOf, nodeArguments } from './dev/build.ts'
export { type ErrorBody, errorBody, TpError } from './errors.ts'
export { connectPublic } from './fetch.ts'
export { Html, html } from './html.ts'
export { checkFileName } from './local/files.ts'
export { type Change, createTables, type Row } from './local/tables.ts'
export { answerMalformed } from './malformed.ts'
export { alivePath } from './platform/join.ts'
