// Makes the packages as they are published: `npm run release [-- DIR]` bundles each with its types, packs them into DIR
// (default ./release) and tries the tarballs in an empty project: programs must start, types must check.
// Publishing is then `npm publish` of each tarball, in the order printed.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildIfStale } from './build.mjs'

/** In the order in which they depend on each other. */
const packages = ['wire', 'sdk', 'tidebase', 'tidepool', 'platform']

const root = fileURLToPath(new URL('..', import.meta.url))
const out = resolve(process.argv[2] ?? join(root, 'release'))
const bin = (name) => join(root, 'node_modules/.bin', name)
const run = (command, args, cwd) =>
  execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim()
const manifest = (name) => JSON.parse(readFileSync(join(root, 'packages', name, 'package.json'), 'utf8'))

/** What somebody who has installed the packages writes. */
const user = `
import { Tidebase } from '@tidebase/sdk'
import { startServer } from 'tidebase'
import tp from 'tidepool'
const tide = new Tidebase({ url: 'http://127.0.0.1:1' })
tp.route('/post/:slug', (_req, { slug }) => slug.length)
// @ts-expect-error a parameter that the path does not have
tp.route('/page/:slug', (_req, { other }) => other)
console.log(typeof startServer, typeof tide.run, typeof tp.route)
`

const versions = new Set(packages.map((name) => manifest(name).version))
if (versions.size > 1) throw new Error(`the packages have different versions: ${[...versions].join(', ')}`)
mkdirSync(out, { recursive: true })
const tarballs = []
for (const name of packages) {
  const dir = join(root, 'packages', name)
  rmSync(join(dir, 'dist'), { recursive: true, force: true })
  await buildIfStale(name)
  run(
    bin('tsc'),
    ['--declaration', '--emitDeclarationOnly', '--rootDir', 'src', '--outDir', 'dist', '-p', types(dir)],
    dir,
  )
  tarballs.push(join(out, run('npm', ['pack', '--silent', '--pack-destination', out], dir)))
}
tryOut()
console.log(tarballs.join('\n'))

/** A configuration for the declarations of one package: those of the others are read from their dist, as users do. */
function types(dir) {
  const file = join(mkdtempSync(join(tmpdir(), 'tide-types-')), 'tsconfig.json')
  const compilerOptions = { noEmit: false, customConditions: [], typeRoots: [join(root, 'node_modules/@types')] }
  writeFileSync(
    file,
    JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions, include: [join(dir, 'src')] }),
  )
  return file
}

function tryOut() {
  const dir = mkdtempSync(join(tmpdir(), 'tide-release-'))
  try {
    writeFileSync(join(dir, 'package.json'), JSON.stringify({ private: true, type: 'module' }))
    const dependencies = ['typescript', '@types/node'].map((name) => `${name}@${locked(name)}`)
    run('npm', ['install', '--silent', '--no-audit', '--no-fund', ...tarballs, ...dependencies], dir)
    writeFileSync(join(dir, 'user.ts'), user)
    run(
      join(dir, 'node_modules/.bin/tsc'),
      ['--strict', '--module', 'nodenext', '--target', 'es2023', '--types', 'node', 'user.ts'],
      dir,
    )
    const said = run(process.execPath, ['user.js'], dir)
    if (said !== 'function function function') throw new Error(`the installed packages said: ${said}`)
    for (const program of ['tidebase', 'tidepool', 'tidepool-platform']) {
      const version = run(join(dir, 'node_modules/.bin', program), ['--version'], dir)
      if (!versions.has(version)) throw new Error(`${program} --version printed ${version}`)
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

function locked(name) {
  return JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages[`node_modules/${name}`].version
}
