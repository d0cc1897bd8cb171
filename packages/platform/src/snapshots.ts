// Snapshots of what a pod keeps: records and files as they were before something changed or destroyed them. Files are
// shared by their objects, records are copied. Each is one transaction under the lock that the pod's writes take.
import type { Queryable } from './db.ts'
import { newId } from './ids.ts'

/** Why a snapshot was made. */
export type SnapshotReason = 'deploy' | 'replace' | 'sync' | 'undo' | 'delete'

export interface Snapshot {
  id: string
  reason: SnapshotReason
  deployment: string | null
  secrets_version: number
  created_at: Date
}

/** Takes a snapshot. Run in a transaction. @param days until it is removed; null: kept with the pod's last ones */
export async function takeSnapshot(
  tx: Queryable,
  {
    pod,
    reason,
    deployment,
    secretsVersion,
    days = null,
  }: { pod: string; reason: SnapshotReason; deployment: string | null; secretsVersion: number; days?: number | null },
): Promise<string> {
  await tx.query('set local statement_timeout = 0')
  const id = newId()
  const [store] = await tx.query<{ db_size: number }>('select db_size from platform.stores where pod = $1 for update', [
    pod,
  ])
  await tx.query(
    `insert into platform.snapshots (id, pod, reason, deployment, secrets_version, db_size, expires_at)
     values ($1, $2, $3, $4, $5, $6, now() + make_interval(days => $7))`,
    [id, pod, reason, deployment, secretsVersion, store?.db_size ?? 0, days],
  )
  await tx.query(
    `insert into platform.snapshot_records (snapshot, space, key, value, expires)
     select $1, space, key, value, expires from platform.records where pod = $2`,
    [id, pod],
  )
  await tx.query(
    `insert into platform.snapshot_files (snapshot, name, object, size, content_type, etag, modified_at)
     select $1, name, object, size, content_type, etag, modified_at from platform.files where pod = $2`,
    [id, pod],
  )
  return id
}

/** Puts a pod's data back as a snapshot has it. Versions go on rising, so no writer mistakes old for new. */
export async function restoreSnapshot(tx: Queryable, pod: string, snapshot: string): Promise<void> {
  await tx.query('set local statement_timeout = 0')
  await tx.query('select 1 from platform.stores where pod = $1 for update', [pod])
  await tx.query('delete from platform.records where pod = $1', [pod])
  await tx.query(
    `with s as (update platform.stores set version = version + 1,
         db_size = (select db_size from platform.snapshots where id = $2) where pod = $1 returning version)
     insert into platform.records (pod, space, key, value, version, expires)
     select $1, r.space, r.key, r.value, s.version, r.expires from platform.snapshot_records r, s where r.snapshot = $2`,
    [pod, snapshot],
  )
  await tx.query('delete from platform.files where pod = $1', [pod])
  await tx.query(
    `insert into platform.files (pod, name, object, size, content_type, etag, modified_at)
     select $1, name, object, size, content_type, etag, modified_at from platform.snapshot_files where snapshot = $2`,
    [pod, snapshot],
  )
}

const kept = 10

/** Removes snapshots that are past their time, and of each pod all but the last ten that have none. */
export async function sweepSnapshots(db: Queryable): Promise<void> {
  await db.query('delete from platform.snapshots where expires_at < now()')
  await db.query(
    `delete from platform.snapshots where id in (
       select id from (select id, row_number() over (partition by pod order by created_at desc) as n
         from platform.snapshots where expires_at is null) s where n > $1)`,
    [kept],
  )
}
