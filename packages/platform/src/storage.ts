/**
 * Object storage: bytes under keys, on a local disk or on any service that speaks S3.
 *
 * Invariants: an object appears whole or not at all; what `put` acknowledged survives a crash; both kinds behave the
 * same (`test/storage-conformance.ts`). To add a kind: a file in `storage/`, a branch in `openStorage`, and a test file
 * that runs the suite.
 */
import type { Storage } from './storage/common.ts'
import { openDiskStorage } from './storage/disk.ts'
import { openS3Storage } from './storage/s3.ts'

export { type PutOptions, type Storage, StorageError, type StoredObject } from './storage/common.ts'

/** Where objects are kept: a folder, or a bucket of a service that speaks S3. */
export type StorageOptions =
  | { dir: string }
  | {
      /** Address of the service, like `https://s3.example.com`; the bucket is a part of the path, not of the host. */
      endpoint: string
      bucket: string
      accessKey: string
      secretKey: string
      /** `us-east-1` when not given. */
      region?: string
    }

/**
 * Opens a storage. A folder is made if it does not exist; so is a bucket, if the key may.
 * @throws StorageError `storage` when the folder cannot be used, the service does not answer or refuses the key
 */
export function openStorage(options: StorageOptions): Promise<Storage> {
  return 'dir' in options ? openDiskStorage(options.dir) : openS3Storage(options)
}
