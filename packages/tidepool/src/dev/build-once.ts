/**
 * Bundles the pod in a folder and prints what came of it as one line of JSON: `{}`, or `{error, place}`. The platform
 * runs it in the pod's sandbox, because a bundler reads whatever a source imports.
 */
import { errorBody, TpError } from '../errors.ts'
import { buildError, createBuild } from './build.ts'

const [dir = '.'] = process.argv.slice(2)
try {
  const build = await createBuild(dir)
  try {
    await build.rebuild()
    console.log('{}')
  } catch (failure) {
    if (!(failure instanceof Error && 'errors' in failure && Array.isArray(failure.errors))) throw failure
    const { error, place } = buildError(dir, failure.errors)
    console.log(JSON.stringify({ error: errorBody(error), place }))
  } finally {
    await build.dispose()
  }
} catch (error) {
  if (!(error instanceof TpError)) throw error
  console.log(JSON.stringify({ error: errorBody(error) }))
}
