/** Builds the program of a package when any workspace source is newer than its bundle. */
export function buildIfStale(name: string): Promise<void>
/** Builds Studio into the files that the server's package carries, when its sources are newer. */
export function buildStudioIfStale(): Promise<void>
