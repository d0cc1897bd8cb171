/** Builds the program of a package when any workspace source is newer than its bundle. */
export function buildIfStale(name: string): Promise<void>
