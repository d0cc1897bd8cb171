// nginx as a reverse proxy to one unix socket, set up the way one would for speed: kept-alive connections, no log.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sleep } from './own-platform.ts'

/** Whether it is installed. */
export const hasNginx = () => spawnSync('nginx', ['-v']).status === 0

/** Starts it in the foreground of a process of its own. @param workers a number, or `auto`: one for each core */
export async function startNginx(socket: string, workers: 1 | 'auto') {
  const dir = await mkdtemp(join(tmpdir(), 'nginx-bench-'))
  const port = await freePort()
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((each) => `${each}_temp_path ${dir}/${each};`)
  // The socket lies in the sandbox's /tmp, which only root sees from outside.
  const user = process.getuid?.() === 0 ? 'user root;' : ''
  await writeFile(
    join(dir, 'nginx.conf'),
    `daemon off; worker_processes ${workers}; pid ${dir}/pid; error_log stderr error; ${user}
    events { worker_connections 1024; }
    http {
      access_log off; keepalive_requests 100000000; ${temp.join(' ')}
      upstream pod { server unix:${socket}; keepalive 64; keepalive_requests 100000000; }
      server {
        listen 127.0.0.1:${port};
        location / {
          proxy_pass http://pod;
          proxy_http_version 1.1;
          proxy_set_header Connection "";
          proxy_set_header Host $http_host;
          proxy_set_header X-Forwarded-For $remote_addr;
          proxy_set_header X-Forwarded-Proto $scheme;
          proxy_set_header X-Forwarded-Host $http_host;
        }
      }
    }`,
  )
  const child = spawn('nginx', ['-p', dir, '-e', 'stderr', '-c', join(dir, 'nginx.conf')], { stdio: 'inherit' })
  const exited = new Promise((resolve) => child.once('exit', resolve))
  for (let tries = 0; !(await answers(port)); tries++) {
    if (child.exitCode !== null || tries > 500) throw new Error('nginx did not start')
    await sleep(10)
  }
  return {
    port,
    async stop(): Promise<void> {
      child.kill('SIGTERM')
      await exited
      await rm(dir, { recursive: true, force: true })
    },
  }
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    const end = (up: boolean) => {
      socket.destroy()
      resolve(up)
    }
    socket.once('connect', () => end(true)).once('error', () => end(false))
  })
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => probe.once('listening', resolve))
  const address = probe.address()
  await new Promise((resolve) => probe.close(resolve))
  return typeof address === 'object' && address ? address.port : 0
}
