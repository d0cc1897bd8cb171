/**
 * Runs npm inside a sandbox, which has no network: a proxy on the sandbox's own loopback carries what npm asks for to
 * the platform's socket. `node npm.js <npm-cli.js> <arguments of npm>`.
 */
import { spawn } from 'node:child_process'
import { createServer, request } from 'node:http'
import { takeEgress, tunnel } from './egress.ts'

const platform = { socket: process.env.TIDEPOOL_PLATFORM ?? '', token: process.env.TIDEPOOL_TOKEN ?? '' }
takeEgress(platform)

const proxy = createServer((req, res) => {
  const { 'proxy-connection': _, connection: __, ...headers } = req.headers
  const sent = request(req.url ?? '', { method: req.method, headers }, (answer) => {
    res.writeHead(answer.statusCode ?? 502, answer.headers)
    answer.pipe(res)
  })
  sent.on('error', (error) => {
    if (res.headersSent) res.destroy()
    else res.writeHead(502).end(error.message)
  })
  req.pipe(sent)
})
proxy.on('connect', (req, socket, head) => {
  const [, host = '', port = '443'] = /^\[?([^\]]+?)\]?:(\d+)$/.exec(req.url ?? '') ?? []
  tunnel(platform, host, Number(port)).then(
    (far) => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      if (head.length > 0) far.write(head)
      far.on('error', () => socket.destroy())
      socket.on('error', () => far.destroy())
      socket.pipe(far).pipe(socket)
    },
    (error: unknown) => socket.end(`HTTP/1.1 502 Bad Gateway\r\n\r\n${error instanceof Error ? error.message : ''}`),
  )
})
proxy.listen(0, '127.0.0.1', () => {
  const address = proxy.address()
  const url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`
  const env = { ...process.env, npm_config_proxy: url, npm_config_https_proxy: url, npm_config_noproxy: '' }
  const npm = spawn(process.execPath, process.argv.slice(2), { env, stdio: 'inherit' })
  npm.on('exit', (code) => process.exit(code ?? 1))
})
