// The parts of a running platform, as every endpoint and run gets them.
import type { Tidebase } from '@tidebase/sdk'
import type { Database } from './db.ts'
import type { Deploys } from './deploys.ts'
import type { Driver } from './drivers/process.ts'
import type { Fleet } from './fleet.ts'
import type { Traffic } from './gateway/traffic.ts'
import type { Logs } from './logs.ts'
import type { Mailer } from './mail.ts'
import type { Master } from './master.ts'
import type { PodFiles } from './pod-files.ts'
import type { Progress } from './progress.ts'
import type { Releases } from './releases.ts'
import type { Replicas } from './replicas.ts'
import type { Storage } from './storage.ts'
import type { Store } from './store.ts'
import type { Uploads } from './uploads.ts'

/** Where a platform reports. */
export interface Log {
  info(message: string): void
  warn(details: object, message: string): void
  error(details: object, message: string): void
}

export interface Settings {
  /** Where the control plane is reached, such as http://localhost:8080 */
  publicUrl: string
  /** Pods are at <name>.<domain>. */
  domain: string
  /** It listens on this machine only: for one person, who can read everything anyway. */
  local: boolean
  /** The data folder. */
  dir: string
  /** SHA-256 of the operator's key. */
  operatorHash: Buffer
}

export interface Platform {
  driver: Driver
  db: Database
  storage: Storage
  store: Store
  files: PodFiles
  mailer: Mailer
  master: Master
  tide: Tidebase
  logs: Logs
  replicas: Replicas
  releases: Releases
  fleet: Fleet
  deploys: Deploys
  uploads: Uploads
  progress: Progress
  traffic: Traffic
  settings: Settings
  log: Log
}
