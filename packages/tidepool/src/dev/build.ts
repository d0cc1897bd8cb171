/**
 * Bundles a pod's source for running: one file with a source map in tp_data/build/, npm packages left outside,
 * `tidepool` resolved to this installation (or to the copy that `tidepool eject` made), so that a pod needs no install
 * of its own.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { isBuiltin } from 'node:module'
import { join, relative } from 'node:path'
import { type BuildContext, context, type Message, type Plugin } from 'esbuild'
import { type Place, sourceAround } from '../error-page.ts'
import { TpError } from '../errors.ts'

/** Folder of an ejected runtime inside a pod. */
export const ejectedFolder = 'tidepool'

const entry = (main: string) => `import { runPod } from "tidepool/run"\nawait runPod(() => import('./${main}'))\n`

/** The pod's main file. @throws TpError `no_main` */
export function findMain(dir: string): string {
  const found = ['main.ts', 'main.js', 'main.mts', 'main.mjs', 'main.tsx'].find((name) => existsSync(join(dir, name)))
  if (!found) throw new TpError('no_main', `There is no main.ts in ${dir}`, { next: ['tidepool init my-app'] })
  return found
}

/** Resolves `tidepool` and `tidepool/run`: one copy of the runtime, whoever imports it. */
function runtime(dir: string): Plugin {
  const ejected = existsSync(join(dir, ejectedFolder, 'tp.ts'))
  return {
    name: 'tidepool',
    setup(build) {
      build.onResolve({ filter: /^tidepool(\/run)?$/ }, ({ path }) => {
        const name = path === 'tidepool' ? 'tp' : 'run'
        if (ejected) return { path: join(dir, ejectedFolder, `${name}.ts`) }
        return { path: new URL(`./${name}.js`, import.meta.url).href, external: true }
      })
      if (!ejected) return
      // What the copy needs is installed with this runtime, not in the pod's folder.
      build.onResolve({ filter: /^[^./]/ }, ({ path, importer }) =>
        importer.startsWith(join(dir, ejectedFolder)) && !isBuiltin(path)
          ? { path: import.meta.resolve(path), external: true }
          : undefined,
      )
      // … and so is what it loads by `require`, on first use.
      build.onLoad({ filter: /\.ts$/ }, async ({ path }) => {
        if (!path.startsWith(join(dir, ejectedFolder))) return undefined
        const text = await readFile(path, 'utf8')
        const here = `createRequire(${JSON.stringify(import.meta.url)})`
        return { contents: text.replaceAll('createRequire(import.meta.url)', here), loader: 'ts' }
      })
    },
  }
}

/** The first error of a failed build, in the one shape, and its place. */
export function buildError(dir: string, messages: readonly Message[]): { error: TpError; place: Place | undefined } {
  const [first] = messages
  const at = first?.location
  const path = at && join(dir, at.file)
  const place = at &&
    path && {
      file: relative(dir, path),
      line: at.line,
      column: at.column + 1,
      source: sourceAround(path, at.line),
    }
  const more = messages.length > 1 ? ` (and ${messages.length - 1} more)` : ''
  const missing = /^Could not resolve "([^"./][^"]*)"/.exec(first?.text ?? '')?.[1]
  const error = new TpError('build_failed', `${first?.text ?? 'The build failed'}${more}`, {
    ...(missing && { hint: `Install it in the pod's folder.`, next: [`npm install ${missing}`] }),
    ...(place && { file: place.file, line: place.line, column: place.column }),
  })
  return { error, place: place || undefined }
}

/** Where the bundle of a pod lies. */
export function bundleOf(dir: string): string {
  return join(dir, 'tp_data', 'build', 'main.mjs')
}

/**
 * Prepares builds of a pod; `rebuild()` bundles, reusing what did not change.
 * @throws TpError `no_main`
 */
export function createBuild(dir: string): Promise<BuildContext> {
  return context({
    absWorkingDir: dir,
    stdin: { contents: entry(findMain(dir)), resolveDir: dir, sourcefile: 'tidepool-entry.js' },
    outfile: bundleOf(dir),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: `node${process.versions.node}`,
    sourcemap: 'linked',
    sourcesContent: false,
    packages: 'external',
    logLevel: 'silent',
    plugins: [runtime(dir)],
  })
}

/** The command line under which Node runs a pod's bundle. */
export function nodeArguments(bundle: string): string[] {
  return ['--enable-source-maps', bundle]
}
