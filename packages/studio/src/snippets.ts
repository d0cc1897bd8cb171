// Programs and commands for people to copy.

/** Makes the first run of a project. */
export const firstRun = (url: string) => `import { Tidebase } from '@tidebase/sdk'
const tide = new Tidebase({ url: '${url}' })
const said = await tide.run('hello', async (run) => {
  const name = await run.step('think of a name', () => 'Ada')
  return run.step('greet', () => \`Hello, \${name}!\`)
})
console.log(said)`

/** Runs it. */
export const installAndRun = 'npm install @tidebase/sdk && node first.mjs'
