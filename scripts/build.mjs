// Bundles each program of this repository into its package's dist/ with esbuild: workspace code inlined,
// npm packages left outside. Studio is built with vite into the server's package. The bins call `buildIfStale` so that a fresh checkout runs without a build step.
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/** Every program: the package it belongs to and its entry files, relative to that package. */
const programs = {
  wire: ['src/index.ts', 'src/contract.ts'],
  sdk: ['src/index.ts'],
  tidebase: ['src/main.ts', 'src/index.ts'],
  platform: ['src/main.ts', 'src/bin.ts'],
  tidepool: ['src/tp.ts', 'src/run.ts', 'src/kit.ts', 'src/dev/build-once.ts', 'src/platform/npm.ts', 'cli/main.ts'],
}

function newest(dir) {
  let latest = 0
  for (const entry of readdirSync(dir, { withFileTypes: true, recursive: true })) {
    if (entry.isFile()) latest = Math.max(latest, statSync(join(entry.parentPath, entry.name)).mtimeMs)
  }
  return latest
}

/** Each file appears whole, in the order given: several programs may find the same bundle stale at once. */
function writeAll(files) {
  for (const { path, contents } of files) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(`${path}.${process.pid}`, contents)
    renameSync(`${path}.${process.pid}`, path)
  }
}

/** Builds Studio into the files that the server's package carries, when its sources are newer. */
export async function buildStudioIfStale() {
  const dir = join(root, 'packages/studio')
  const out = join(root, 'packages/tidebase/dist/studio')
  const page = join(out, 'index.html')
  const sources = [
    newest(join(dir, 'src')),
    ...['index.html', 'vite.config.ts'].map((file) => statSync(join(dir, file)).mtimeMs),
  ]
  if (existsSync(page) && statSync(page).mtimeMs > Math.max(...sources)) return
  const vite = await import('vite')
  const { output } = await vite.build({ configFile: join(dir, 'vite.config.ts') })
  const files = output.map((each) => ({ path: join(out, each.fileName), contents: each.code ?? each.source }))
  // The page last: it names the others.
  writeAll(files.sort((a, b) => (a.path === page) - (b.path === page)))
  // What an older page names is kept for an hour, for those who have it open.
  const kept = new Set(files.map(({ path }) => path))
  for (const name of readdirSync(join(out, 'assets'))) {
    const path = join(out, 'assets', name)
    if (!kept.has(path) && statSync(path).mtimeMs < Date.now() - 3_600_000) rmSync(path, { force: true })
  }
}

/** Builds the program `name` when any workspace source is newer than its bundle. */
export async function buildIfStale(name) {
  if (name === 'tidebase') await buildStudioIfStale()
  const dir = join(root, 'packages', name)
  const outputs = programs[name].map((entry) => join(dir, 'dist', entry.replace(/^.*\//, '').replace(/\.ts$/, '.js')))
  const built = Math.min(...outputs.map((file) => (existsSync(file) ? statSync(file).mtimeMs : 0)))
  const sources = readdirSync(join(root, 'packages')).flatMap((each) =>
    ['src', 'cli'].map((folder) => join(root, 'packages', each, folder)),
  )
  if (built > Math.max(...sources.filter(existsSync).map(newest))) return
  // Loaded when there is something to build: the command lines ask this at each start.
  const { build } = await import('esbuild')
  const { outputFiles } = await build({
    absWorkingDir: dir,
    write: false,
    entryPoints: programs[name],
    outdir: 'dist',
    entryNames: '[name]',
    bundle: true,
    // Entries of one program share their modules, and with them what a process has one of.
    splitting: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    conditions: ['source'],
    sourcemap: true,
    logLevel: 'warning',
    plugins: [
      {
        name: 'npm-packages-outside',
        setup(build) {
          build.onResolve({ filter: /^[^./]/ }, ({ path, kind }) =>
            kind === 'entry-point' || path.startsWith('@tidebase/') ? undefined : { path, external: true },
          )
        },
      },
    ],
  })
  // Entries after the chunks they import.
  const isEntry = ({ path }) => outputs.includes(path)
  writeAll([...outputFiles].sort((a, b) => isEntry(a) - isEntry(b)))
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  for (const name of Object.keys(programs)) await buildIfStale(name)
